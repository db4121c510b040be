"""The kinds of cuts of a game of parts and experts: each is a game of its own."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from shapcut.game.coalitions import CoalitionMatrix, Player
from shapcut.game.game import Game, Measurements, WrappedGame
from shapcut.game.mixed import MixedLayer, by_layer, mixed_layers

KindName = Literal["block", "moe", "expert"]


@dataclass(frozen=True, slots=True)
class Kind:
    """What one kind of cut removes.

    Attributes:
        name: whole blocks, their MoE parts with all experts, or single experts.
        players: its players, numbered from 0.
        sets: for each of them, the players of the whole game that it stands for.
    """

    name: KindName
    players: tuple[Player, ...]
    sets: tuple[tuple[int, ...], ...]

    def whole_set(self, absent: Iterable[int]) -> list[int]:
        """The players of the whole game that some of its players stand for, ascending."""
        return sorted({player for one in absent for player in self.sets[one]})

    def costs(self, costs: Sequence[float]) -> list[float]:
        """What removing each of its players gains, from the gains of the whole game's players."""
        return [sum(costs[player] for player in some) for some in self.sets]


def kinds_of(players: Sequence[Player], permits: Callable[[Sequence[int]], bool]) -> tuple[Kind, ...]:
    """The kinds of cuts of a game; those of which nothing can be removed are left out.

    Args:
        players: parts of layers and experts.
        permits: whether a set may be removed; asked for each MoE part.
    """
    layers = mixed_layers(players)
    with_experts = [layer for layer in layers if layer.owner is not None]
    experts = [expert for layer in layers for expert in layer.experts]
    parts = [_part(players, number, layer, permits) for number, layer in enumerate(with_experts)]
    found = (
        blocks_of(players),
        Kind("moe", tuple(parts), tuple(layer.mixture for layer in with_experts)),
        Kind(
            "expert",
            tuple(replace(players[expert], index=number) for number, expert in enumerate(experts)),
            tuple((expert,) for expert in experts),
        ),
    )
    return tuple(kind for kind in found if any(player.removable for player in kind.players))


def blocks_of(players: Sequence[Player]) -> Kind:
    """Whole blocks, in a game whose players are parts of them."""
    layers = by_layer(players)
    blocks = [_block(number, name, members) for number, (name, members) in enumerate(layers.items())]
    sets = (tuple(player.index for player in members) for members in layers.values())
    return Kind("block", tuple(blocks), tuple(sets))


def _block(number: int, name: str, members: Sequence[Player]) -> Player:
    parts = (player for player in members if player.group is None and not player.removable)
    reason = next((player.reason for player in parts), "")
    parameters = sum(player.parameters for player in members)
    return Player(number, name, "block", parameters, removable=not reason, reason=reason)


def _part(
    players: Sequence[Player], number: int, layer: MixedLayer, permits: Callable[[Sequence[int]], bool]
) -> Player:
    can_go = permits(layer.mixture)
    parameters = sum(players[player].parameters for player in layer.mixture)
    reason = "" if can_go else "no checkpoint can lack it"
    name = players[layer.mixture[0]].name
    return Player(number, name, "mlp", parameters, removable=can_go, reason=reason)


class KindGame(WrappedGame):
    """A game in which only one kind of players can be absent.

    Args:
        game: the whole game.
        kind: the kind.
    """

    def __init__(self, game: Game, kind: Kind) -> None:
        super().__init__(game)
        self.kind = kind
        self._members = np.zeros((len(kind.sets), game.n_players), dtype=np.bool_)
        for row, some in zip(self._members, kind.sets, strict=True):
            row[list(some)] = True

    @property
    def players(self) -> tuple[Player, ...]:
        """The kind's players."""
        return self.kind.players

    @property
    def access(self) -> None:
        """None: the model has other players."""
        return

    def whole(self, coalitions: CoalitionMatrix) -> CoalitionMatrix:
        """The coalitions of the whole game."""
        return ~((~coalitions).astype(np.int64) @ self._members.astype(np.int64)).astype(np.bool_)

    def measurements(self, coalitions: CoalitionMatrix) -> Measurements:
        """Those of the whole game."""
        return self.game.measurements(self.whole(coalitions))

    def permits(self, absent: Sequence[int]) -> bool:
        """Whether all of these players are removable, and the whole game permits the set."""
        return all(self.players[one].removable for one in absent) and self.game.permits(
            self.kind.whole_set(absent)
        )

    def narrowed(self, tokens: int) -> "KindGame":
        """The same kind in the narrower game."""
        narrower = self.game.narrowed(tokens)
        return self if narrower is self.game else KindGame(narrower, self.kind)
