"""Plain PyTorch paths beside the package's CUDA and Triton kernels, for non-CUDA tensors.

Each kernel is reached through one name in the module that defines it, and only that name is replaced.
"""

import copy
from collections.abc import Callable
from importlib import import_module
from typing import Any

from torch import Tensor, nn

from shapcut_adapters.mamba_ssm.kernels.causal_conv import causal_conv, causal_conv_step
from shapcut_adapters.mamba_ssm.kernels.chunk_scan import chunk_scan
from shapcut_adapters.mamba_ssm.kernels.kernel_choice import Arguments, choose_function, choose_kernel
from shapcut_adapters.mamba_ssm.kernels.norms import add_and_normalise, gated_rms_norm
from shapcut_adapters.mamba_ssm.kernels.rotary import RotaryEmbedding
from shapcut_adapters.mamba_ssm.kernels.selective_scan import selective_scan

_SOUGHT_BY_TRANSFORMERS = {
    "mamba_inner_fn": "ops.selective_scan_interface",
    "selective_scan_fn": "ops.selective_scan_interface",
    "selective_state_update": "ops.triton.selective_state_update",
    "mamba_chunk_scan_combined": "ops.triton.ssd_combined",
    "mamba_split_conv1d_scan_combined": "ops.triton.ssd_combined",
}
"""Functions that transformers' Mamba models import from this package if available, with their modules."""


def withhold_from_transformers() -> None:
    """Let transformers' own Mamba models run in plain PyTorch although the package is importable.

    They decide for the package's functions when their modules are imported, and without kernels those
    functions cannot run. The package's own layers have these functions by then and keep them.
    """
    package = import_module("mamba_ssm")
    for name, place in _SOUGHT_BY_TRANSFORMERS.items():
        for module in (package, _package(place)):
            if hasattr(module, name):
                setattr(module, name, None)


def install_cpu_paths() -> None:
    """Let the package's layers run on non-CUDA tensors; idempotent.

    Raises:
        AttributeError: if the package does not have its kernels where they are expected.
    """
    choose_kernel(_package("ops.selective_scan_interface"), "SelectiveScanFn", _selective_scan)
    choose_kernel(_package("ops.triton.layer_norm"), "LayerNormFn", _layer_norm)
    choose_kernel(_package("ops.triton.layernorm_gated"), "LayerNormFn", _gated_norm)
    choose_kernel(_package("ops.triton.ssd_combined"), "MambaChunkScanCombinedFn", _chunk_scan)
    plain_update = _package("ops.triton.selective_state_update").selective_state_update_ref
    mamba, mamba2, attention = (_package(f"modules.{name}") for name in ("mamba_simple", "mamba2", "mha"))
    for module in (mamba, mamba2):
        choose_function(module, "selective_state_update", plain_update)
    for module in (mamba, mamba2, attention):
        choose_function(module, "causal_conv1d_fn", causal_conv)
        choose_function(module, "causal_conv1d_update", causal_conv_step)
    for mixer, switch in ((mamba.Mamba, "use_fast_path"), (mamba2.Mamba2, "use_mem_eff_path")):
        choose_function(mixer, "forward", _without_fused_path(mixer.forward, switch))
    if attention.RotaryEmbedding is None:  # without flash-attn the package cannot build such a layer
        attention.RotaryEmbedding = RotaryEmbedding


def _package(name: str) -> Any:
    return import_module(f"mamba_ssm.{name}")


def _selective_scan(given: Arguments) -> Any:
    outputs, last_state = selective_scan(
        *(given[name] for name in ("u", "delta", "A", "B", "C")),
        skip=given["D"],
        gate=given["z"],
        step_bias=given["delta_bias"],
        softplus=given["delta_softplus"],
    )
    return (outputs, last_state) if given["return_last_state"] else outputs


def _chunk_scan(given: Arguments) -> Any:
    _refuse(given, ("seq_idx", "cu_seqlens", "return_varlen_states"), "packed sequences")
    outputs, final_states = chunk_scan(
        *(given[name] for name in ("x", "dt", "A", "B", "C")),
        skip=given["D"],
        gate=given["z"],
        step_bias=given["dt_bias"],
        initial_states=given["initial_states"],
        softplus=given["dt_softplus"],
        step_limits=given["dt_limit"],
    )
    return (outputs, final_states) if given["return_final_states"] else outputs


def _layer_norm(given: Arguments) -> Any:
    extras = ("x1", "weight1", "bias1", "dropout_p", "rowscale", "return_dropout_mask")
    _refuse(given, extras, "dropout and second branches in a norm")
    normal, total = add_and_normalise(
        *(given[name] for name in ("x", "weight", "bias", "residual")),
        eps=given["eps"],
        residual_in_fp32=given["residual_in_fp32"],
        is_rms_norm=given["is_rms_norm"],
    )
    return (normal, total) if given["prenorm"] else normal


def _gated_norm(given: Arguments) -> Tensor:
    _refuse(given, ("bias",), "a bias in a gated norm")
    if not given["is_rms_norm"]:
        raise ValueError("a gated layer norm needs the kernels of mamba-ssm; Mamba-2 has an RMS norm")
    return gated_rms_norm(
        *(given[name] for name in ("x", "weight", "z")),
        eps=given["eps"],
        group_size=given["group_size"],
        norm_before_gate=given["norm_before_gate"],
    )


def _refuse(given: Arguments, names: tuple[str, ...], what: str) -> None:
    """Refuse arguments that no language model of the package uses, rather than ignore them."""
    for name in names:
        if isinstance(given[name], Tensor) or given[name]:
            raise ValueError(f"{what} ({name}) needs the kernels of mamba-ssm on a GPU")


def _without_fused_path(forward: Callable[..., Any], switch: str) -> Callable[..., Any]:
    """A mixer's forward without its fused path, so that each operation chooses its own kernel.

    It runs on a view of the mixer with the same parameters, so that the mixer itself keeps its setting.
    """

    def run(mixer: nn.Module, *arguments: Any, **options: Any) -> Any:
        view = copy.copy(mixer)
        setattr(view, switch, False)
        return forward(view, *arguments, **options)

    return run
