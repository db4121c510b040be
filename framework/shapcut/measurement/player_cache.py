"""The part of the generation state that each player holds."""

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from shapcut.game.coalitions import Player
from shapcut.game.granularity import Granularity
from shapcut.measurement.cache_size import distinct_tensors, tensor_bytes
from shapcut.measurement.latency import random_prompt
from shapcut.models.adapter import Adapter
from shapcut.support.errors import UnsupportedModelError
from shapcut.support.quiet import quiet_libraries


@dataclass(frozen=True, slots=True)
class PlayerCaches:
    """Bytes of the generation state of one sequence.

    Attributes:
        length: tokens read.
        total: of the whole model.
        saved: by the absence of each player alone.
    """

    length: int
    total: int
    saved: tuple[int, ...]


def player_caches(
    adapter: Adapter,
    model: nn.Module,
    players: Sequence[Player],
    granularity: Granularity = "block",
    *,
    length: int,
    seed: int = 0,
) -> PlayerCaches:
    """Measure what each player adds to the generation state after a prompt.

    A tensor of the state counts for the player whose module made it. If tensors are made elsewhere, as by a
    model that keeps the states of all layers in one, each block is removed from a copy that shares the
    weights, and the difference counts.

    Args:
        adapter: the model's adapter.
        model: in evaluation mode.
        players: the model's players.
        granularity: what a player is.
        length: tokens of the prompt.
        seed: of the prompt.

    Raises:
        UnsupportedModelError: if the model returns no generation state.
    """
    prompt = random_prompt(adapter, model, length, seed)
    with quiet_libraries():
        with _makers(_owners(adapter, model, players), model) as made_by:
            state = adapter.generation_state(model, prompt)
        saved = [0] * len(players)
        for tensor in distinct_tensors(state):
            maker = made_by.get(tensor.untyped_storage().data_ptr())
            if maker is not None:
                saved[maker] += tensor.numel() * tensor.element_size()
        total = tensor_bytes(state)
        if sum(saved) < total and granularity == "block":
            saved = [total - _without(adapter, model, player, prompt, total) for player in players]
    return PlayerCaches(length, total, tuple(saved))


def _without(adapter: Adapter, model: nn.Module, player: Player, prompt: Tensor, total: int) -> int:
    """Bytes of the state without one block; all of them if it cannot be removed alone."""
    if not player.removable or adapter.can_remove(model, [player.index]):
        return total
    shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    removed = adapter.remove(copy.deepcopy(model, shared), [player.index])
    return tensor_bytes(adapter.generation_state(removed, prompt))


def _owners(adapter: Adapter, model: nn.Module, players: Sequence[Player]) -> dict[str, int]:
    """The outermost modules whose weights are all one player's, and that player."""
    owners: dict[int, int] = {}
    for player in players:
        with suppress(UnsupportedModelError):
            owners |= {id(weight): player.index for weight in adapter.player_parameters(model, player)}
    found: dict[str, int] = {}
    for name, module in model.named_modules():
        whose = {owners.get(id(weight), -1) for weight in module.parameters()}
        inside = any(name.startswith(f"{outer}.") for outer in found)
        if len(whose) == 1 and -1 not in whose and not inside:
            found[name] = whose.pop()
    return found


@contextmanager
def _makers(owners: Mapping[str, int], model: nn.Module) -> Iterator[dict[int, int]]:
    """Filled while the context is open: the player whose module allocated each storage, by address.

    An address may be used again; the last use counts, which is the one of a tensor that is still there.
    """
    mode, handles = _Makers(), []
    for name, player in owners.items():
        module = model.get_submodule(name)
        handles.append(module.register_forward_pre_hook(mode.enter(player), with_kwargs=True))
        handles.append(module.register_forward_hook(mode.leave, with_kwargs=True, always_call=True))
    try:
        with mode:
            yield mode.made_by
    finally:
        for handle in handles:
            handle.remove()


_DispatchMode: Any = TorchDispatchMode  # untyped in torch


class _Makers(_DispatchMode):
    """Notes who runs when a tensor is made."""

    def __init__(self) -> None:
        super().__init__()
        self.made_by: dict[int, int] = {}
        self._running: list[int] = []

    def enter(self, player: int) -> Any:
        def hook(_module: nn.Module, _args: Any, _kwargs: Any) -> None:
            self._running.append(player)

        return hook

    def leave(self, _module: nn.Module, _args: Any, _kwargs: Any, _output: Any) -> None:
        self._running.pop()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {_address(tensor) for tensor in _tensors((args, kwargs))}
        output = func(*args, **(kwargs or {}))
        for tensor in _tensors(output):
            address = _address(tensor)
            if address in given:
                continue
            if self._running:
                self.made_by[address] = self._running[-1]
            else:
                self.made_by.pop(address, None)
        return output


def _address(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _tensors(held: Any) -> Iterator[Tensor]:
    if isinstance(held, Tensor) and type(held) in {Tensor, nn.Parameter}:
        yield held
    elif isinstance(held, (list, tuple)):
        for part in held:
            yield from _tensors(part)
    elif isinstance(held, dict):
        yield from _tensors(list(held.values()))
