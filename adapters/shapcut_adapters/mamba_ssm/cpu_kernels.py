"""Paths in plain PyTorch beside the package's CUDA and Triton kernels, chosen by where a tensor is.

Each of the package's kernels is reached through one name in the module that defines it; that name gets a
`KernelChoice`. CUDA tensors go to the kernel as before.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

from shapcut_adapters.mamba_ssm.chunk_scan import chunk_scan
from shapcut_adapters.mamba_ssm.norms import add_and_normalise, gated_rms_norm
from shapcut_adapters.mamba_ssm.rotary import RotaryEmbedding
from shapcut_adapters.mamba_ssm.selective_scan import selective_scan


class KernelChoice:
    """Stands where an autograd function stood: CUDA tensors go to it, others to plain PyTorch.

    Args:
        kernel: the autograd function.
        plain: what computes the same from the same arguments.
    """

    def __init__(self, kernel: Any, plain: Callable[..., Any]) -> None:
        self.kernel = kernel
        self.plain = plain

    def apply(self, first: Tensor, *arguments: Any) -> Any:
        """As the autograd function's."""
        chosen = self.kernel.apply if first.is_cuda else self.plain
        return chosen(first, *arguments)


def install_cpu_paths() -> None:
    """Let the package's layers run on tensors that are not on a CUDA device; harmless if done twice.

    Raises:
        AttributeError: if the package does not have its kernels where they are expected.
    """
    _choose("ops.selective_scan_interface", "SelectiveScanFn", selective_scan)
    _choose("ops.triton.layer_norm", "LayerNormFn", _layer_norm)
    _choose("ops.triton.layernorm_gated", "LayerNormFn", _gated_norm)
    _choose("ops.triton.ssd_combined", "MambaChunkScanCombinedFn", chunk_scan)
    plain_update = _package("ops.triton.selective_state_update").selective_state_update_ref
    for name in ("modules.mamba_simple", "modules.mamba2"):
        _choose_function(_package(name), "selective_state_update", plain_update)
    mamba2 = _package("modules.mamba2").Mamba2
    if not hasattr(mamba2.forward, "__wrapped__"):
        mamba2.forward = _without_fused_path(mamba2.forward)
    attention = _package("modules.mha")
    if attention.RotaryEmbedding is None and not torch.cuda.is_available():
        attention.RotaryEmbedding = RotaryEmbedding


def _package(name: str) -> Any:
    return import_module(f"mamba_ssm.{name}")


def _choose(module_name: str, name: str, plain: Callable[..., Any]) -> None:
    module = _package(module_name)
    kernel = getattr(module, name)
    if not isinstance(kernel, KernelChoice):
        setattr(module, name, KernelChoice(kernel, plain))


def _choose_function(module: Any, name: str, plain: Callable[..., Any]) -> None:
    kernel = getattr(module, name)
    if hasattr(kernel, "__wrapped__"):
        return

    @wraps(kernel)
    def choose(state: Tensor, *arguments: Any, **options: Any) -> Any:
        return (kernel if state.is_cuda else plain)(state, *arguments, **options)

    setattr(module, name, choose)


def _layer_norm(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    x1: None,
    weight1: None,
    bias1: None,
    eps: float,
    dropout_p: float,
    rowscale: None,
    prenorm: bool,  # noqa: FBT001 - the kernel's order of arguments
    residual_in_fp32: bool,  # noqa: FBT001
    is_rms_norm: bool,  # noqa: FBT001
    return_dropout_mask: bool,  # noqa: FBT001
) -> Any:
    """The arguments of the fused kernel, of which a language model uses those of `add_and_normalise`."""
    if dropout_p or return_dropout_mask or any(extra is not None for extra in (x1, weight1, bias1, rowscale)):
        raise ValueError("dropout and second branches in a normalisation need the kernels of mamba-ssm")
    return add_and_normalise(
        x,
        weight,
        bias,
        residual,
        eps=eps,
        prenorm=prenorm,
        residual_in_fp32=residual_in_fp32,
        is_rms_norm=is_rms_norm,
    )


def _gated_norm(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    z: Tensor | None,
    eps: float,
    group_size: int | None,
    norm_before_gate: bool,  # noqa: FBT001 - the kernel's order of arguments
    is_rms_norm: bool,  # noqa: FBT001
) -> Tensor:
    if not is_rms_norm or bias is not None:
        raise ValueError("a gated layer norm needs the kernels of mamba-ssm; Mamba-2 uses a gated RMS norm")
    return gated_rms_norm(x, weight, z, eps=eps, group_size=group_size, norm_before_gate=norm_before_gate)


def _without_fused_path(forward: Callable[..., Any]) -> Callable[..., Any]:
    """Mamba-2's forward that does not take its fused path on a tensor that is not on a CUDA device."""

    @wraps(forward)
    def choose(self: nn.Module, u: Tensor, *arguments: Any, **options: Any) -> Any:
        if u.is_cuda:
            return forward(self, u, *arguments, **options)
        with _unfused(self):
            return forward(self, u, *arguments, **options)

    return choose


@contextmanager
def _unfused(mixer: Any) -> Iterator[None]:
    before = mixer.use_mem_eff_path
    mixer.use_mem_eff_path = False
    try:
        yield
    finally:
        mixer.use_mem_eff_path = before
