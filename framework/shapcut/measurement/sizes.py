"""Sizes: parameters, bytes of weights and checkpoints, peak memory."""

import importlib.util
import sys
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from shapcut.models.gguf_parts import parts_of

WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pth", ".pt", ".gguf")

_COPY = ".gguf"

_STATUS, _RESTART = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_PEAK, _KIBIBYTE = "VmHWM:", 1024


def parameter_count(model: nn.Module) -> int:
    """Number of distinct parameters: tied ones count once."""
    return sum(parameter.numel() for parameter in model.parameters())


def weight_bytes(model: nn.Module) -> int:
    """Memory of the distinct parameters and buffers; of a packed tensor, of what it is packed into."""
    return sum(map(_stored_bytes, [*model.parameters(), *model.buffers()]))


def _stored_bytes(tensor: Tensor) -> int:
    if not is_traceable_wrapper_subclass(tensor):
        return tensor.numel() * tensor.element_size()
    names, _ = tensor.__tensor_flatten__()
    return sum(_stored_bytes(getattr(tensor, name)) for name in names)


def checkpoint_bytes(path: Path) -> int:
    """Size of a checkpoint's one file (with the other parts of a split one), or of those in its directory."""
    files = path.iterdir() if path.is_dir() else (part for part in parts_of(path) if part.exists())
    found = [file for file in files if file.suffix in WEIGHT_SUFFIXES]
    alone = len({file.suffix for file in found} - {_COPY}) == 0  # else it repeats the other files' weights
    return sum(file.stat().st_size for file in found if alone or file.suffix != _COPY)


def peak_memory_bytes(device: torch.device | None = None) -> int | None:
    """Peak memory so far: allocated on a GPU, else this process's resident set.

    Returns:
        Bytes, or None where the platform does not report it.
    """
    if device is not None and device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if _STATUS.exists():
        lines = _STATUS.read_text(encoding="utf-8").splitlines()
        return next((int(line.split()[1]) * _KIBIBYTE for line in lines if line.startswith(_PEAK)), None)
    if importlib.util.find_spec("resource") is None:
        return None
    import resource  # noqa: PLC0415 - not on every system

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * _KIBIBYTE


def restart_peak_memory() -> bool:
    """Reset the peak of `peak_memory_bytes` to the memory held now.

    Returns:
        Whether the platform supports it; otherwise the old peak stays.
    """
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    try:
        _RESTART.write_text("5", encoding="ascii")
    except OSError:
        return False
    return True
