"""Temporarily replaced forward methods of blocks."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import nn

Forward = Callable[..., Any]

_MISSING = object()


@contextmanager
def replaced_forward(module: nn.Module, replacement: Forward) -> Iterator[None]:
    """Replace a module's forward; restores its own, or an earlier replacement, on exit."""
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
    """Replace the forwards of several blocks."""
    with ExitStack() as stack:
        for block, replacement in replacements:
            stack.enter_context(replaced_forward(block, replacement))
        yield
