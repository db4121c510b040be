"""The weights that a fitted change is folded into."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from shapcut.contracts import OutputProjection, norm_factors

_LEAST_GAIN = 1e-3
"""Channels that a norm multiplies by less than this share of its largest gain stay as they are."""


class Place(ABC):
    """Weights of a module whose output is linear in some activations.

    Attributes:
        name: the dotted path of the module or parameter.
        inputs: number of activations.
        outputs: width of the output.
        device: of the weights.
    """

    name: str
    inputs: int
    outputs: int
    device: torch.device

    @abstractmethod
    def watched(self) -> Any:
        """A context that records what `activations` needs of a step."""

    @abstractmethod
    def activations(self, given: list[Tensor], tokens: int) -> Tensor:
        """What the output is linear in, float32, shape (tokens, inputs)."""

    @abstractmethod
    def fold(self, change: Tensor) -> None:
        """Let the weights be those at the beginning plus a change, shape (inputs, outputs)."""

    def penalised(self) -> Tensor:
        """The factor of the ridge for each activation, shape (inputs,): a constant is not penalised."""
        found = torch.ones(self.inputs, dtype=torch.float64, device=self.device)
        if self.has_constant:
            found[-1] = 0.0
        return found

    @property
    @abstractmethod
    def has_constant(self) -> bool:
        """Whether the last activation is 1 for all tokens."""


class _Map(Place):
    """The weight of a linear map, and its bias if it has one."""

    def __init__(self, name: str, module: Any, projection: OutputProjection) -> None:
        self.name = name
        self._module = module
        self._transposed = projection.transposed
        self._start = module.weight.clone(), None if module.bias is None else module.bias.clone()
        self.outputs = int(module.weight.shape[1 if projection.transposed else 0])
        self.inputs = module.weight.numel() // self.outputs + self.has_constant
        self.device = module.weight.device

    @property
    def has_constant(self) -> bool:
        return self._module.bias is not None

    @contextmanager
    def watched(self) -> Iterator[list[Tensor]]:
        given: list[Tensor] = []
        handle = self._module.register_forward_pre_hook(lambda _module, args: given.append(args[0]))
        try:
            yield given
        finally:
            handle.remove()

    def activations(self, given: list[Tensor], tokens: int) -> Tensor:
        found = given[0].reshape(tokens, -1).float()
        return torch.cat([found, torch.ones_like(found[:, :1])], dim=1) if self.has_constant else found

    def fold(self, change: Tensor) -> None:
        weight, bias = self._start
        of_weight = change[: self.inputs - self.has_constant]
        _add(self._module.weight, weight, of_weight if self._transposed else of_weight.t())
        if bias is not None:
            _add(self._module.bias, bias, change[-1])


class _NormedMap(_Map):
    """A linear map whose output is normalised before it is added.

    The number that a token's output is divided by is taken as it is, although the change changes it: the walk
    tries shares of the change on what the block then returns.
    """

    def __init__(self, model: nn.Module, projection: OutputProjection) -> None:
        super().__init__(projection.normed, model.get_submodule(projection.normed), projection)
        self._norm = model.get_submodule(projection.module)
        self._gains = torch.ones(self.outputs, dtype=torch.float64, device=self.device)

    @contextmanager
    def watched(self) -> Iterator[list[Tensor]]:
        given: list[Tensor] = []
        note = self._norm.register_forward_hook(lambda _module, args, output: given.extend([args[0], output]))
        with super().watched() as inputs:
            try:
                yield given
            finally:
                note.remove()
                given[:0] = inputs

    def activations(self, given: list[Tensor], tokens: int) -> Tensor:
        inputs, before, after = given
        by_token, self._gains = norm_factors(before.reshape(tokens, -1), after.reshape(tokens, -1))
        return super().activations([inputs], tokens) * by_token.float()[:, None]

    def fold(self, change: Tensor) -> None:
        usable = self._gains.abs() > _LEAST_GAIN * self._gains.abs().max()
        super().fold(torch.where(usable, change / self._gains, 0.0))


class _Constant(Place):
    """The bias in a module that is not linear, such as those of experts whose weights add up to 1."""

    inputs = 1
    has_constant = True

    def __init__(self, model: nn.Module, projection: OutputProjection) -> None:
        self.name = projection.bias
        self._parameter = model.get_parameter(projection.bias)
        self._start = self._parameter.detach().clone()
        self.outputs = int(self._parameter.shape[-1])
        self.device = self._parameter.device

    @contextmanager
    def watched(self) -> Iterator[list[Tensor]]:
        yield []

    def activations(self, given: list[Tensor], tokens: int) -> Tensor:  # noqa: ARG002 - the same for each
        return torch.ones((tokens, 1), device=self.device)

    def fold(self, change: Tensor) -> None:
        _add(self._parameter.data, self._start, change[0])


def place_of(model: nn.Module, projection: OutputProjection) -> Place:
    """Where a projection takes a change."""
    if projection.linear:
        return _Map(projection.module, model.get_submodule(projection.module), projection)
    if projection.normed:
        return _NormedMap(model, projection)
    return _Constant(model, projection)


def _add(weight: Tensor, start: Tensor, change: Tensor) -> None:
    """Set a weight to its start plus a change, added in float64 and stored in its own dtype."""
    weight.copy_((start.double() + change).to(weight.dtype))
