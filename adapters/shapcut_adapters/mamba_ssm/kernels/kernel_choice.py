"""Choose between a kernel and plain PyTorch by a tensor's device."""

import inspect
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any

from torch import Tensor

Arguments = Mapping[str, Any]
"""A kernel's arguments by parameter name."""

_MARK = "chooses_between_kernel_and_plain"


class KernelChoice:
    """Replaces an autograd function: CUDA tensors go to it, others to plain PyTorch.

    Args:
        kernel: the autograd function.
        plain: computes the same, given the kernel's arguments.
    """

    def __init__(self, kernel: Any, plain: Callable[[Arguments], Any]) -> None:
        self.kernel = kernel
        self.plain = plain
        self._signature = inspect.signature(kernel.forward)

    def apply(self, first: Tensor, *arguments: Any) -> Any:
        """Same signature as the autograd function's."""
        if first.is_cuda:
            return self.kernel.apply(first, *arguments)
        bound = self._signature.bind(None, first, *arguments)  # None stands for its context
        bound.apply_defaults()
        return self.plain(bound.arguments)


def choose_kernel(module: Any, name: str, plain: Callable[[Arguments], Any]) -> None:
    """Replace an autograd function of a module by a `KernelChoice`, once."""
    kernel = getattr(module, name)
    if not isinstance(kernel, KernelChoice):
        setattr(module, name, KernelChoice(kernel, plain))


def choose_function(owner: Any, name: str, plain: Callable[..., Any]) -> None:
    """Replace a function of a module or class by a choice, once.

    Args:
        owner: the module or class.
        name: of the function; one that is None stays so.
        plain: takes the same arguments; runs if the first tensor among them is not on a CUDA device.
    """
    function = getattr(owner, name)
    if function is None or _MARK in vars(function):
        return

    @wraps(function)
    def choose(*arguments: Any, **options: Any) -> Any:
        deciding = next(value for value in (*arguments, *options.values()) if isinstance(value, Tensor))
        return (function if deciding.is_cuda else plain)(*arguments, **options)

    vars(choose)[_MARK] = True
    setattr(owner, name, choose)
