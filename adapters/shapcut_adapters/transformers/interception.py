"""Temporary replacements and recordings of modules while a model runs."""

import inspect
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from shapcut.contracts import ShapcutError, UnsupportedModelError
from shapcut_adapters.shared.forwards import Forward
from shapcut_adapters.transformers.decoder import Decoder, forward, input_device

_CACHES = ("past_key_values", "cache_params", "state")


class StopForwardError(Exception):
    """Raised inside a forward pass whose remainder is not needed."""


@dataclass(frozen=True, slots=True)
class Call:
    """A recorded call of a block; the hidden state is dropped and replaced for each replay."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    @property
    def hidden_state(self) -> Tensor:
        """The hidden state: a keyword, else the first argument."""
        given = self.kwargs.get("hidden_states", self.args[0] if self.args else None)
        if not isinstance(given, Tensor):
            raise UnsupportedModelError("a block was called without a hidden state")
        return given

    def with_hidden_state(self, hidden_state: Tensor | None) -> "Call":
        """The same call with another hidden state."""
        if "hidden_states" in self.kwargs:
            return Call(self.args, {**self.kwargs, "hidden_states": hidden_state})
        return Call((hidden_state, *self.args[1:]), self.kwargs)

    def on(self, device: torch.device) -> "Call":
        """The same call with all its tensors on a device."""
        return Call(_on(self.args, device), _on(self.kwargs, device))


def _on(given: Any, device: torch.device) -> Any:
    """A value with the tensors in plain containers on a device."""
    if isinstance(given, Tensor):
        return given.to(device)
    if type(given) in {tuple, list}:
        return type(given)(_on(part, device) for part in given)
    return {name: _on(part, device) for name, part in given.items()} if type(given) is dict else given


@dataclass(frozen=True, slots=True)
class Container:
    """The container of a block's output: a bare tensor, or a tuple or list with the hidden state first."""

    kind: type
    length: int

    @staticmethod
    def of(output: Any) -> "Container":
        """The container of a block's output."""
        if isinstance(output, Tensor):
            return Container(Tensor, 1)
        return Container(list if isinstance(output, list) else tuple, len(output))

    def holding(self, hidden_state: Tensor, beside: tuple[Any, ...] = ()) -> Any:
        """A hidden state with the values beside it, in this container."""
        if self.kind is Tensor:
            return hidden_state
        empty = [None] * (self.length - 1 - len(beside))
        return self.kind((hidden_state, *beside, *empty))


def learn_containers(decoder: Decoder) -> dict[type, Container]:
    """Learn the container of each class of block from one forward pass of two tokens."""
    containers: dict[type, Container] = {}
    classes = {type(block) for block in decoder.blocks}

    def learn(block: nn.Module, _args: Any, output: Any) -> None:
        containers[type(block)] = Container.of(output)
        if len(containers) == len(classes):
            raise StopForwardError

    with ExitStack() as stack, torch.no_grad():
        for block in decoder.blocks:
            stack.callback(block.register_forward_hook(learn).remove)
        with suppress(StopForwardError):
            forward(decoder.model, torch.ones((1, 2), dtype=torch.long, device=input_device(decoder.model)))
    return containers


def skipped(
    decoder: Decoder, containers: dict[type, Container], blocks: Iterable[nn.Module]
) -> Iterator[tuple[nn.Module, Forward]]:
    """Blocks of a decoder, each with its forward while absent."""
    for block in blocks:
        entrance = decoder.entrance if block is decoder.blocks[0] else None
        yield block, _identity(block, containers[type(block)], decoder.family.passed_on, entrance)


def _identity(
    block: nn.Module, container: Container, passed_on: tuple[str, ...], entrance: nn.Module | None
) -> Forward:
    """A forward that returns its input hidden state and the values beside it unchanged."""
    names = list(inspect.signature(type(block).forward).parameters)[1:]

    def skip(*args: Any, **kwargs: Any) -> Any:
        given = dict(zip(names, args, strict=False)) | kwargs
        hidden_state = Call(args, kwargs).hidden_state
        entered = hidden_state if entrance is None else entrance(hidden_state)
        return container.holding(entered, tuple(given.get(name) for name in passed_on))

    return skip


def constant(container: Container, hidden_state: Tensor) -> Forward:
    """A forward that returns a given hidden state."""

    def give(*_args: Any, **_kwargs: Any) -> Any:
        return container.holding(hidden_state)

    return give


@contextmanager
def without_cache(owner: nn.Module) -> Iterator[None]:
    """Run the stack without a cache, and refuse one that is passed in.

    Positions are counted on the cache of layer 0, so a cache without it would be silently wrong.
    """
    names = list(inspect.signature(type(owner).forward).parameters)[1:]

    def enforce(_owner: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
        named = dict(zip(names, args, strict=False)) | kwargs
        for cache in _CACHES:
            if named.get(cache) is not None:
                raise ShapcutError(f"bypassed layers cannot run with {cache}; pass use_cache=False")
        return (), named | {"use_cache": False}

    handle = owner.register_forward_pre_hook(enforce, with_kwargs=True, prepend=True)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def recorded_calls(blocks: Iterable[nn.Module], calls: list[Call], last: nn.Module) -> Iterator[None]:
    """Append each block's call to ``calls``; the forward pass stops at the call of ``last``."""

    def record(block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        calls.append(Call(args, kwargs))
        if block is last:
            raise StopForwardError

    with ExitStack() as stack, suppress(StopForwardError):
        for block in blocks:
            handle = block.register_forward_pre_hook(record, with_kwargs=True, prepend=True)
            stack.callback(handle.remove)
        yield
