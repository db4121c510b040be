"""The dtype, kernels and memory budget of evaluation on a device."""

import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import psutil
import torch

from shapcut.support.errors import InputError

_OPERATIONS_WORTH_COMPILING = 1e14


def has_fast_bfloat16(device: torch.device) -> bool:
    """Whether the device has hardware for bf16 matrix products (AMX, AVX512-BF16, recent GPUs)."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type != "cpu" or sys.platform != "linux":
        return False
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="ignore")
    except OSError:
        return False
    return "amx_bf16" in flags or "avx512_bf16" in flags


def fast_matrix_products(device: torch.device) -> AbstractContextManager[None]:
    """A context with bf16 matrix products where the hardware has them; weights keep their dtype."""
    enabled = has_fast_bfloat16(device)
    return torch.autocast(device.type, torch.bfloat16, enabled=enabled, cache_enabled=False)


def evaluation_dtype(
    requested: str, own: torch.dtype, device: torch.device, objection: Callable[[torch.dtype], str]
) -> torch.dtype:
    """The evaluation dtype: ``auto`` turns float32 into bf16 where that is fast and the model runs in it.

    Args:
        requested: auto, float32, bfloat16 or float16.
        own: the model's own dtype.
        device: the model's device.
        objection: why the model cannot run in another dtype; empty if it can.

    Raises:
        InputError: if the model cannot run in the requested dtype.
    """
    if requested == "auto":
        fast = own == torch.float32 and has_fast_bfloat16(device) and not objection(torch.bfloat16)
        return torch.bfloat16 if fast else own
    wanted: torch.dtype = getattr(torch, requested)
    if wanted != own and (reason := objection(wanted)):
        raise InputError(f"--dtype {requested} is unavailable: {reason}; leave the option out")
    return wanted


def fusing_pays(device: torch.device, operations: float) -> bool:
    """Whether fused kernels save more time than their compilation takes.

    On a CPU they save about a fifth of a block's time, and their first compilation takes up to a minute;
    other devices have not been measured.

    Args:
        device: the model's device.
        operations: floating-point operations of all block runs to come.
    """
    return device.type == "cpu" and operations >= _OPERATIONS_WORTH_COMPILING


def default_memory_budget(*devices: torch.device) -> int:
    """A share of the free memory of the device that has least, in bytes.

    Args:
        devices: those of the model's weights; states are on the device of the layer that they come from.
    """
    return min(map(_share_of_free, devices))


def _share_of_free(device: torch.device) -> int:
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return (free + unused) // 2
    return min(psutil.virtual_memory().available // 4, 8 * 2**30)
