"""Probes of a stack's steps: whether they can be fused, and whether states can be batched."""

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from shapcut.models.layer_stack import LayerStack, State

_MOST_OPERATIONS_TO_FUSE = 200
"""A step with more tensor operations contains a long loop, which takes minutes to compile."""

_ROUTING = ("topk", "sort", "grouped_mm", "bincount", "histc")
"""Data-dependent routing, even where all shapes stay the same."""


@dataclass(frozen=True, slots=True)
class Regularity:
    """Properties of a stack's steps.

    Attributes:
        fusible: whether every step is a short, fixed sequence of tensor operations.
        fixed: whether no layer's operations depend on its data, as they do in a mixture of experts.
    """

    fusible: bool
    fixed: bool


class _Operations(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Records every tensor operation with the shapes of its arguments."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seen: list[tuple[str, Hashable]] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        shapes = tuple(tuple(argument.shape) for argument in args if isinstance(argument, Tensor))
        self.seen.append((str(func), shapes))
        return func(*args, **(kwargs or {}))


def examine(stack: LayerStack, n_layers: int, state: State) -> Regularity:
    """Trace two single sequences through all layers.

    Args:
        stack: the model's layer stack, after its `prelude`.
        n_layers: number of layers.
        state: the state that enters layer 0, for at least one sequence.
    """
    rows = [tuple(tensor[row : row + 1] for tensor in state) for row in (0, state[0].shape[0] - 1)]
    fixed, longest = state[0].shape[0] > 1, 0
    for layer in range(n_layers):
        signatures = []
        with stack.resident(layer):
            for which, row in enumerate(rows):
                with _Operations() as operations:
                    rows[which] = stack.step(layer, row)
                signatures.append(tuple(operations.seen))
        routed = any(word in name for name, _ in signatures[0] for word in _ROUTING)
        fixed = fixed and signatures[0] == signatures[1] and not routed
        longest = max(longest, len(signatures[0]))
    return Regularity(fixed and longest <= _MOST_OPERATIONS_TO_FUSE, fixed)


def joined(states: list[State]) -> State:
    """Concatenate states along the batch."""
    return states[0] if len(states) == 1 else tuple(torch.cat(parts) for parts in zip(*states, strict=True))


def cut(state: State, first: int, last: int) -> State:
    """The windows from ``first`` to before ``last`` of a state, without a copy."""
    return tuple(tensor[first:last] for tensor in state)


def divided(state: State, count: int) -> list[State]:
    """The inverse of `joined` for states of equal size; each part owns its memory."""
    parts = zip(*(tensor.chunk(count) for tensor in state), strict=True)
    return [tuple(tensor.clone() for tensor in part) for part in parts]
