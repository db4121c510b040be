"""Latency of each player in the two phases of generation."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict
from torch import nn

from shapcut.game.coalitions import Player
from shapcut.game.granularity import Granularity
from shapcut.measurement.latency import generation_seconds, random_prompt
from shapcut.models.adapter import Adapter
from shapcut.support.errors import InputError
from shapcut.support.plain_json import read_json
from shapcut.support.quiet import quiet_libraries


class PlayerLatencies(BaseModel):
    """Fastest measured seconds for one sequence.

    Attributes:
        model_fingerprint: of the measured model.
        granularity: what a player is.
        prompt_tokens: length of the prompt.
        prefill: to read the prompt, for the whole model.
        decode: for one further token, for the whole model.
        player_prefill: each player's part of ``prefill``.
        player_decode: each player's part of ``decode``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    model_fingerprint: str = ""
    granularity: Granularity = "block"
    prompt_tokens: int
    prefill: float
    decode: float
    player_prefill: tuple[float, ...]
    player_decode: tuple[float, ...]

    def shares(self) -> list[float]:
        """Each player's share of the time, the mean of its shares of the two phases."""
        phases = ((self.prefill, self.player_prefill), (self.decode, self.player_decode))
        known = [(whole, parts) for whole, parts in phases if whole > 0]
        return [
            sum(parts[player] / whole for whole, parts in known) / max(1, len(known))
            for player in range(len(self.player_prefill))
        ]

    @classmethod
    def read(cls, path: Path, model_fingerprint: str, granularity: Granularity) -> "PlayerLatencies | None":
        """The latencies kept by an earlier start of the same run, or None."""
        try:
            found = cls.model_validate(read_json(path))
        except (InputError, OSError, ValueError):
            return None
        same = (found.model_fingerprint, found.granularity) == (model_fingerprint, granularity)
        return found if same else None


def player_latencies(
    adapter: Adapter,
    model: nn.Module,
    players: Sequence[Player],
    granularity: Granularity = "block",
    *,
    prompt_tokens: int = 128,
    new_tokens: int = 8,
    repeats: int = 5,
    seed: int = 0,
) -> PlayerLatencies:
    """Time every player while the whole model generates.

    A player's module is timed where it is called. For a player that is not called as a module, its time is
    the time saved by bypassing it, which is less exact. An expert in a group saves no time: the router picks
    as many of those that stay.

    Args:
        adapter: the model's adapter.
        model: in evaluation mode.
        players: the players to time.
        granularity: what a player is.
        prompt_tokens: length of the prompt.
        new_tokens: decode steps per measurement.
        repeats: number of measurements, after one warm-up; the fastest counts.
        seed: of the prompt.
    """
    prompt = random_prompt(adapter, model, prompt_tokens, seed)
    short, long = [], []

    def run(tokens: int) -> float:
        return generation_seconds(adapter, model, prompt, tokens)

    with quiet_libraries():
        run(2)
        with _timed(model, players) as clock:
            for _ in range(repeats):
                short.append([run(1), *clock.taken()])
                long.append([run(new_tokens + 1), *clock.taken()])
        first, last = ([min(column) for column in zip(*rows, strict=True)] for rows in (short, long))
        decode = [max(end - begin, 0.0) / new_tokens for begin, end in zip(first, last, strict=True)]
        for place, player in enumerate(players, start=1):
            if first[place] == 0.0 and player.group is None:
                others = [other.index for other in players if other.index != player.index]
                for figures, ids in ((first, prompt), (decode, prompt[:, :1])):
                    bypass = adapter.bypass(model, others, granularity)
                    figures[place] = _saved(bypass, partial(adapter.logits, model, ids), repeats)
    return PlayerLatencies(
        granularity=granularity,
        prompt_tokens=prompt_tokens,
        prefill=first[0],
        decode=decode[0],
        player_prefill=tuple(max(seconds, 0.0) for seconds in first[1:]),
        player_decode=tuple(decode[1:]),
    )


def _saved(bypass: AbstractContextManager[Any], read: Callable[[], Any], repeats: int) -> float:
    """Seconds saved by a bypass when reading without a cache."""

    def fastest() -> float:
        taken = []
        for _ in range(repeats):
            begin = time.perf_counter()
            read()
            taken.append(time.perf_counter() - begin)
        return min(taken)

    whole = fastest()
    with bypass:
        return max(whole - fastest(), 0.0)


class _Clock:
    """Sums the seconds that each player's module runs."""

    def __init__(self, count: int) -> None:
        self.seconds = [0.0] * count
        self._begin = [0.0] * count

    def start(self, place: int) -> Any:
        def hook(module: nn.Module, inputs: Any) -> None:
            del inputs
            _synchronise(module)
            self._begin[place] = time.perf_counter()

        return hook

    def stop(self, place: int) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            del inputs, output
            _synchronise(module)
            self.seconds[place] += time.perf_counter() - self._begin[place]

        return hook

    def taken(self) -> list[float]:
        """The sums since the last call."""
        taken, self.seconds = self.seconds, [0.0] * len(self.seconds)
        return taken


@contextmanager
def _timed(model: nn.Module, players: Sequence[Player]) -> Iterator[_Clock]:
    clock, modules, handles = _Clock(len(players)), dict(model.named_modules()), []
    for place, player in enumerate(players):
        if player.name in modules:
            handles.append(modules[player.name].register_forward_pre_hook(clock.start(place)))
            handles.append(modules[player.name].register_forward_hook(clock.stop(place)))
    try:
        yield clock
    finally:
        for handle in handles:
            handle.remove()


def _synchronise(module: nn.Module) -> None:
    if torch.cuda.is_available() and any(weight.is_cuda for weight in module.parameters()):
        torch.cuda.synchronize()
