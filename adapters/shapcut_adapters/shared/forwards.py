"""Blocks whose forward passes are replaced for a while."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import nn

Forward = Callable[..., Any]


_MISSING = object()


@contextmanager
def replaced_forward(module: nn.Module, replacement: Forward) -> Iterator[None]:
    """Let a module compute something else; its own forward, or an earlier replacement, comes back."""
    attributes = vars(module)
    before = attributes.get("forward", _MISSING)
    attributes["forward"] = replacement
    try:
        yield
    finally:
        if before is _MISSING:
            del attributes["forward"]
        else:
            attributes["forward"] = before


@contextmanager
def replaced_blocks(replacements: Iterable[tuple[nn.Module, Forward]]) -> Iterator[None]:
    """Replace the forward of several blocks at once."""
    with ExitStack() as stack:
        for block, replacement in replacements:
            stack.enter_context(replaced_forward(block, replacement))
        yield
