"""Import the ``mamba-ssm`` package, also on machines without a GPU."""

import importlib.util
import sys
from functools import cache
from importlib import import_module
from importlib.metadata import version
from typing import Any

import torch
from torch import nn

from shapcut.contracts import InputError
from shapcut_adapters.mamba_ssm.kernels.absent_triton import has_kernels, stand_ins
from shapcut_adapters.mamba_ssm.kernels.cpu_kernels import install_cpu_paths, withhold_from_transformers

DISTRIBUTION = "mamba-ssm"
MODULE = "mamba_ssm"

INSTALLATION = (
    "for a GPU: pip install --no-build-isolation mamba-ssm; without one: pip install einops wheel && "
    "MAMBA_FORCE_BUILD=TRUE MAMBA_SKIP_CUDA_BUILD=TRUE pip install --no-build-isolation --no-deps mamba-ssm"
)

_IMPORTED_BEFORE = (
    "einops",
    "huggingface_hub.hub_mixin",
    "torch.profiler",
    "transformers.generation.streamers",
    "transformers.generation.utils",
)
"""Third-party imports of the package that probe for Triton and must not find a stand-in."""


def require_package() -> None:
    """Check that the package is installed, without importing it.

    Raises:
        InputError: saying how to install it.
    """
    if importlib.util.find_spec(MODULE) is None:
        raise InputError(f"the package {DISTRIBUTION} is not installed; {INSTALLATION}")


def require_kernels(device: torch.device) -> None:
    """Check that models can run on a device.

    Raises:
        InputError: if that is a CUDA device and the package was installed without its kernels.
    """
    if device.type == "cuda" and not has_kernels():
        raise InputError(
            f"{DISTRIBUTION} was installed without its kernels: use --device cpu, or {INSTALLATION}"
        )


@cache
def import_mamba_ssm() -> Any:
    """Import ``mamba_ssm`` and enable its layers on non-CUDA tensors.

    Raises:
        InputError: if it is not installed, cannot be imported here, or is not laid out as expected.
    """
    require_package()
    for name in _IMPORTED_BEFORE:
        import_module(name)
    try:
        with stand_ins():
            package = import_module(MODULE)
        install_cpu_paths()
        if not has_kernels():
            withhold_from_transformers()
    except (ImportError, AttributeError) as error:
        raise InputError(f"{DISTRIBUTION} {version(DISTRIBUTION)} cannot be used here: {error}") from error
    return package


def is_language_model(model: nn.Module) -> bool:
    """Whether a model is the package's language model, without importing the package."""
    package = sys.modules.get(MODULE)
    return package is not None and type(model) is getattr(package, "MambaLMHeadModel", None)
