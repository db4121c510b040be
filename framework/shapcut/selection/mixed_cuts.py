"""Mixed cuts: blocks, MoE parts and equally many experts of each other layer, for one target."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from math import ceil

import numpy as np
from numpy.typing import NDArray

from shapcut.game.game import Game
from shapcut.game.groups import Groups
from shapcut.game.mixed import MixedLayer, mixed_layers
from shapcut.game.target import Target
from shapcut.support.errors import InputError

_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True)
class Split:
    """A mixed cut.

    Attributes:
        blocks: numbers of the layers that go.
        parts: numbers of the layers whose MoE part goes.
        experts: players that go of the other layers, equally many of each.
    """

    blocks: frozenset[int]
    parts: frozenset[int]
    experts: frozenset[int]


class Cuts:
    """The mixed cuts of a game that just reach a target.

    Args:
        layers: the game's layers.
        groups: the groups of its experts.
        target: the target.
        harm: of each player, what its absence costs; experts with less go first.
        permits: whether a set may be removed.
    """

    def __init__(
        self,
        layers: Sequence[MixedLayer],
        groups: Groups,
        target: Target,
        harm: NDArray[np.float64],
        permits: Callable[[Sequence[int]], bool],
    ) -> None:
        self.layers = layers
        self._target = target
        self._permits = permits
        places = {expert: place for place, layer in enumerate(layers) for expert in layer.experts}
        self._groups = [
            (places[int(some[0])], some[np.argsort(harm[some], kind="stable")].tolist())
            for some in groups.members
            if len(some)
        ]
        self._most = max(groups.most, 0)

    def absent(self, split: Split) -> tuple[int, ...]:
        """The players of a cut, ascending."""
        gone = set(split.experts)
        gone.update(player for layer in split.blocks for player in self.layers[layer].players)
        gone.update(player for layer in split.parts for player in self.layers[layer].mixture)
        return tuple(sorted(gone))

    def completed(
        self, blocks: frozenset[int], parts: frozenset[int], first: frozenset[int] = frozenset()
    ) -> Split | None:
        """The cut of these blocks and MoE parts with the fewest experts that reach the target.

        None if it does not reach it, goes farther than it must, or may not be removed.

        Args:
            blocks: layers that go.
            parts: layers whose MoE part goes.
            first: experts to remove before others.
        """
        ranked = [
            sorted(some, key=lambda expert: expert not in first)
            for layer, some in self._groups
            if layer not in blocks and layer not in parts
        ]
        missing = self._target.needed - self._target.gain(self.absent(Split(blocks, parts, frozenset())))
        gain = sum(self._target.costs[some[0]] for some in ranked)
        each = ceil(missing / gain * (1.0 - _ROUNDING)) if missing > 0.0 and gain > 0.0 else 0
        split = Split(blocks, parts, frozenset(expert for some in ranked for expert in some[:each]))
        absent = self.absent(split)
        if each > self._most or not self._target.reached(absent) or self._superfluous(split):
            return None
        return split if self._permits(absent) else None

    def _superfluous(self, split: Split) -> bool:
        """Whether the target is reached without one of the blocks or MoE parts."""
        if split.experts:  # as few as possible
            return False
        fewer = [replace(split, blocks=split.blocks - {one}) for one in split.blocks]
        fewer += [replace(split, parts=split.parts - {one}) for one in split.parts]
        return any(self._target.reached(self.absent(each)) for each in fewer)

    def fills(self, blocks: Sequence[int], parts: Sequence[int]) -> Iterator[Split]:
        """All splits between the kinds, each filled with the first of two rankings of layers."""
        for n_blocks in range(len(blocks) + 1):
            gone = frozenset(blocks[:n_blocks])
            others = [layer for layer in parts if layer not in gone]
            for n_parts in range(len(others) + 1):
                if split := self.completed(gone, frozenset(others[:n_parts])):
                    yield split

    def moves(self, split: Split, blocks: Sequence[int], parts: Sequence[int]) -> Iterator[Split]:
        """Cuts that exchange a little: within a kind, or one kind for another.

        Args:
            split: the cut.
            blocks: the layers that can go, least harm first.
            parts: the layers whose MoE part can go, likewise.
        """
        free = [layer for layer in blocks if layer not in split.blocks]
        whole = [layer for layer in parts if layer not in split.blocks | split.parts]
        changes: list[tuple[frozenset[int], frozenset[int]]] = []
        for less in [frozenset[int](), *(frozenset({one}) for one in split.blocks)]:
            left = split.blocks - less
            changes += [(left | {new}, split.parts - {new}) for new in free]
            changes.append((left, split.parts))
            changes += [(left, split.parts | {new}) for new in {*whole, *less.intersection(parts)}]
            changes += [(left, split.parts | {*pair}) for pair in pairwise(whole)]
        for old in split.parts:
            left = split.parts - {old}
            changes.append((split.blocks, left))
            changes += [(split.blocks, left | {new}) for new in whole]
            changes += [(split.blocks | {new}, left - {new}) for new in free]
        for gone, without_part in dict.fromkeys(changes):
            if found := self.completed(gone, without_part, split.experts):
                yield found
        yield from self._expert_swaps(split)

    def _expert_swaps(self, split: Split) -> Iterator[Split]:
        """The cut with the most promising exchanges of experts in each group."""
        for layer, some in self._groups:
            absent = [one for one in some if one in split.experts]
            present = [one for one in some if one not in split.experts]
            if layer in split.blocks | split.parts or not absent:
                continue
            for back in absent[-2:]:
                for gone in present[:2]:
                    yield replace(split, experts=split.experts - {back} | {gone})


def require_mixed_cut(game: Game, target: Target) -> None:
    """Check that some mixed cut reaches a target.

    Raises:
        InputError: if none is found.
    """
    layers, players = mixed_layers(game.players), game.players
    cuts = Cuts(layers, Groups.of(players), target, np.zeros(len(players)), game.permits)
    blocks = [n for n, layer in enumerate(layers) if all(players[part].removable for part in layer.parts)]
    parts = [n for n, layer in enumerate(layers) if layer.mixture and game.permits(layer.mixture)]
    if next(cuts.fills(blocks, parts), None) is None:
        raise InputError(f"{target.text}: found no blocks, MoE parts and experts that reach it; ask for less")
