"""The parts of a block, and what a module gives while its part is absent."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from shapcut_adapters.shared.forwards import Forward
from shapcut_adapters.transformers.interception import Container

PartKind = Literal["attention", "mixer", "mlp"]


@dataclass(frozen=True, slots=True)
class Nothing:
    """The output of a module that is not computed: zeros of the shape that its input implies.

    Attributes:
        container: what holds the output.
        width: the output's last dimension; None if it is that of the input, as the others are.
        flat: whether the others are one instead, as in the output of some mixtures of experts.
        dtype: of the output; None if it is that of the input.
    """

    container: Container
    width: int | None
    flat: bool
    dtype: torch.dtype | None

    @staticmethod
    def like(args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any) -> "Nothing | None":
        """What stands for an output of a call; None if its shape does not follow from the input."""
        given, found = _input(args, kwargs), first_tensor(output)
        if given is None or found is None or not isinstance(output, Tensor | tuple | list):
            return None
        flat = found.shape[:-1] != given.shape[:-1]
        if flat and found.shape[:-1] != (given.shape[:-1].numel(),):
            return None
        width, length = found.shape[-1], given.shape[-2] if given.dim() > 1 else 0
        if width != given.shape[-1] and width == length:
            return None  # it may be as wide as the text is long
        dtype = None if found.dtype == given.dtype else found.dtype
        return Nothing(Container.of(output), None if width == given.shape[-1] else width, flat, dtype)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The module's forward while its part is absent; reads no value of its input."""
        given = _input(args, kwargs)
        if given is None:
            raise TypeError("a part of a block was called without a tensor")
        leading = (given.shape[:-1].numel(),) if self.flat else given.shape[:-1]
        width = given.shape[-1] if self.width is None else self.width
        return self.container.holding(given.new_zeros((*leading, width), dtype=self.dtype))


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a block that adds to the residual stream on its own.

    Attributes:
        kind: what it is.
        path: its module in the block.
        silent: by their paths, the modules that are not computed while it is absent: those whose outputs are
            added, and those that serve no other part.
    """

    kind: PartKind
    path: str
    silent: Mapping[str, Nothing]

    def silenced(self, block: nn.Module) -> Iterator[tuple[nn.Module, Forward]]:
        """The modules that are not computed while the part is absent, each with what it gives."""
        for path, nothing in self.silent.items():
            yield block.get_submodule(path), nothing.forward

    def parameters(self, block: nn.Module) -> list[nn.Parameter]:
        """The parameters that no other part of the block uses."""
        return [weight for path in self.silent for weight in block.get_submodule(path).parameters()]


def silenced(block: nn.Module, parts: Iterable[Part]) -> Iterator[tuple[nn.Module, Forward]]:
    """The modules that are not computed while some parts of a block are absent."""
    for part in parts:
        yield from part.silenced(block)


def first_tensor(output: Any) -> Tensor | None:
    """A module's output, or the first of several, if it is a tensor."""
    first = output[0] if isinstance(output, tuple | list) and output else output
    return first if isinstance(first, Tensor) else None


def _input(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor | None:
    """The hidden state that a module is given."""
    named = kwargs.get("hidden_states")
    tensors = (each for each in (named, *args, *kwargs.values()) if isinstance(each, Tensor))
    return next((tensor for tensor in tensors if tensor.is_floating_point()), None)
