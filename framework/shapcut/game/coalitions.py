"""Players and coalitions: the vocabulary of the layer-pruning game.

A coalition is the set of players that *stay*. A coalition matrix is boolean with one coalition per row,
``True`` where the player runs.
"""

import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from shapcut.support.errors import InputError

CoalitionMatrix = NDArray[np.bool_]
"""Shape (n_coalitions, n_players); True: the player runs."""

Values = NDArray[np.float64]
"""Shape (n_coalitions,); higher is better; a non-finite entry means the coalition has no usable value."""

PlayerKind = Literal["block", "attention", "mlp", "mixer", "expert"]


@dataclass(frozen=True, slots=True)
class Player:
    """A part of a model that can be absent.

    Attributes:
        index: position among the players of the original model, counted from 0.
        name: the module's dotted path, for example ``model.layers.3``.
        kind: what the part is.
        parameters: number of parameters removed with it.
        removable: False if the architecture needs it.
        reason: why it is not removable; empty if it is.
        group: number of its group, if a model can only be written when every group has lost equally many
            players: the experts of a layer. None if there is no such constraint. Players of one layer, which
            may have several groups, share the name up to the last dot.
    """

    index: int
    name: str
    kind: PlayerKind
    parameters: int
    removable: bool = True
    reason: str = ""
    group: int | None = None


def require_numbered(players: Sequence[Player]) -> None:
    """Check that players are numbered by their position.

    Raises:
        InputError: naming the first one that is not.
    """
    if not players:
        raise InputError("the game has no players")
    for position, player in enumerate(players):
        if player.index != position:
            raise InputError(
                f"player {player.name!r} at position {position} has the index {player.index}; "
                "players are numbered from 0 in their order"
            )


def without(n_players: int, absent_sets: Iterable[Collection[int]]) -> CoalitionMatrix:
    """Coalitions that lack the given players.

    Args:
        n_players: number of players.
        absent_sets: the indices of each coalition's absent players.

    Returns:
        Shape (len(absent_sets), n_players).

    Raises:
        IndexError: if an index is outside ``range(n_players)``.
    """
    rows = [list(absent) for absent in absent_sets]
    coalitions = np.ones((len(rows), n_players), dtype=np.bool_)
    for row, absent in enumerate(rows):
        if any(not 0 <= player < n_players for player in absent):
            raise IndexError(f"players {sorted(absent)} are not all in 0..{n_players - 1}")
        coalitions[row, absent] = False
    return coalitions


def absent_players(coalition: NDArray[np.bool_]) -> tuple[int, ...]:
    """The absent players of one coalition, ascending."""
    return tuple(int(player) for player in np.flatnonzero(~coalition))


def all_coalitions(n_players: int) -> CoalitionMatrix:
    """Every coalition of ``n_players`` players; row r holds the binary digits of r, player 0 lowest."""
    numbers = np.arange(1 << n_players, dtype=np.int64)
    return ((numbers[:, None] >> np.arange(n_players)) & 1).astype(np.bool_)


def distinct(coalitions: CoalitionMatrix) -> CoalitionMatrix:
    """The distinct rows, in order of first appearance."""
    first: dict[bytes, int] = {}
    for row, key in enumerate(keys(coalitions)):
        first.setdefault(key, row)
    return coalitions[list(first.values())]


def finite_or_none(value: float) -> float | None:
    """The value as a float, or None if it is not finite."""
    return float(value) if math.isfinite(value) else None


def keys(coalitions: CoalitionMatrix) -> list[bytes]:
    """A hashable key for each row: its packed bits."""
    return [row.tobytes() for row in np.packbits(coalitions, axis=1, bitorder="little")]
