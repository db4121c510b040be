"""The memory allocator of the C library."""

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -2, -3, -4, -8


def keep_freed_memory() -> None:
    """Ask glibc to reuse freed buffers instead of returning them to the system.

    A block's temporaries are tens of megabytes; handed back and faulted in again at each call they cost as
    much time as the arithmetic. Does nothing where the C library has no ``mallopt``.
    """
    _set_allocator({_M_MMAP_MAX: 0, _M_TRIM_THRESHOLD: 2**31 - 1, _M_TOP_PAD: 64 * 2**20})


def return_freed_memory() -> None:
    """Ask glibc to return freed buffers to the system at once, for models larger than memory."""
    _set_allocator({_M_MMAP_THRESHOLD: 2**20, _M_TRIM_THRESHOLD: 2**20, _M_ARENA_MAX: 1})


def _set_allocator(parameters: dict[int, int]) -> None:
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        for parameter, value in parameters.items():
            mallopt(parameter, value)
