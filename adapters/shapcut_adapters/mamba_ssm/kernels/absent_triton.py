"""Stand-ins for Triton and the CUDA extension while the package is imported without them.

The package's modules define Triton kernels when they are imported. With these stand-ins the definitions go
through; calling a kernel is an error that says so.
"""

import importlib.util
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import Any

_TRITON = "triton"
_CUDA_EXTENSION = "selective_scan_cuda"


class MissingKernelError(RuntimeError):
    """A kernel that needs a GPU was called."""


class Kernel:
    """A Triton kernel that cannot be run.

    Attributes:
        name: of the function.
        configs: its declared launch configurations, which the package reads on import.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self.name = getattr(function, "__name__", "a kernel")
        self.configs: Sequence[LaunchConfig] = ()

    def __getitem__(self, grid: object) -> Callable[..., Any]:
        raise MissingKernelError(f"{self.name} of mamba-ssm needs Triton and a GPU")


class LaunchConfig:
    """The declared numbers of a launch.

    Attributes:
        kwargs: sizes of blocks by name.
        num_warps: as declared.
        num_stages: as declared.
    """

    def __init__(
        self, kwargs: Mapping[str, int], num_warps: int = 4, num_stages: int = 2, **_options: object
    ) -> None:
        self.kwargs = dict(kwargs)
        self.num_warps = num_warps
        self.num_stages = num_stages


def _autotune(configs: Sequence[LaunchConfig], **_options: object) -> Callable[[Kernel], Kernel]:
    def declare(kernel: Kernel) -> Kernel:
        kernel.configs = configs
        return kernel

    return declare


def _heuristics(_values: Mapping[str, object]) -> Callable[[Kernel], Kernel]:
    return lambda kernel: kernel


def _jit(function: Callable[..., Any] | None = None, **_options: object) -> Any:
    return Kernel if function is None else Kernel(function)


def _ignore(*_arguments: object) -> None:
    """Does nothing, for calls that only prepare a GPU."""


def _triton_modules() -> dict[str, ModuleType]:
    """The names of Triton that the package uses on import."""
    triton, language, testing = (ModuleType(name) for name in ("triton", "triton.language", "triton.testing"))
    vars(triton).update(
        __version__="0.0.0",
        __path__=[],
        Config=LaunchConfig,
        autotune=_autotune,
        heuristics=_heuristics,
        jit=_jit,
        language=language,
        set_allocator=_ignore,
        testing=testing,
    )
    vars(language).update(constexpr=object)
    return {module.__name__: module for module in (triton, language, testing)}


def has_kernels() -> bool:
    """Whether no stand-in is needed, without importing the modules."""
    return not any(importlib.util.find_spec(name) is None for name in (_TRITON, _CUDA_EXTENSION))


@contextmanager
def stand_ins() -> Iterator[None]:
    """Make stand-ins for missing modules importable; removes them from ``sys.modules`` on exit."""
    modules = _missing()
    before = {name: sys.modules[name] for name in modules if name in sys.modules}
    sys.modules.update(modules)
    try:
        yield
    finally:
        for name in modules:
            del sys.modules[name]
        sys.modules.update(before)


def _missing() -> dict[str, ModuleType]:
    missing = {} if importlib.util.find_spec(_TRITON) else _triton_modules()
    if importlib.util.find_spec(_CUDA_EXTENSION) is None:
        missing[_CUDA_EXTENSION] = ModuleType(_CUDA_EXTENSION)
    return missing
