"""Moves between sets of parts of blocks, of which few may be removed together."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from shapcut.estimators.polynomial import Polynomial
from shapcut.game.coalitions import CoalitionMatrix, Player, absent_players, distinct
from shapcut.game.feasible import Permits


def come_in_parts(players: Sequence[Player]) -> bool:
    """Whether the players are parts of blocks: of several kinds, and in no groups."""
    return len({player.kind for player in players}) > 1 and all(player.group is None for player in players)


def exchanges(coalition: NDArray[np.bool_], candidates: NDArray[np.int64]) -> CoalitionMatrix:
    """All coalitions that exchange one absent player for a present candidate, or two neighbours for two.

    Shifting a run of absent players by one is an exchange of its first for the one after its last.
    """
    removable: NDArray[np.bool_] = np.zeros(len(coalition), dtype=np.bool_)
    removable[candidates] = True
    rows = [
        coalition[None],
        _exchanged(coalition, np.flatnonzero(~coalition), np.flatnonzero(coalition & removable), 1),
        _exchanged(coalition, _first_of_two(~coalition), _first_of_two(coalition & removable), 2),
    ]
    return distinct(np.vstack(rows))[1:]


def _first_of_two(members: NDArray[np.bool_]) -> NDArray[np.int64]:
    """The members whose right neighbour is a member too."""
    return np.flatnonzero(members[:-1] & members[1:])


def _exchanged(
    coalition: NDArray[np.bool_], back: NDArray[np.int64], gone: NDArray[np.int64], width: int
) -> CoalitionMatrix:
    """Every exchange of ``width`` absent neighbours from ``back`` on for as many present ones."""
    pairs = [(one, other) for one in back.tolist() for other in gone.tolist()]
    rows = np.repeat(coalition[None], len(pairs), axis=0)
    for row, (one, other) in zip(rows, pairs, strict=True):
        row[one : one + width] = True
        row[other : other + width] = False
    return rows


def climb_permitted(
    polynomial: Polynomial, start: NDArray[np.bool_], candidates: NDArray[np.int64], permits: Permits
) -> NDArray[np.bool_]:
    """Ascent by exchanges to permitted sets, each time to the best one, to a local optimum."""
    current, value = start, float(polynomial.predict(start[None])[0])
    while True:
        around = exchanges(current, candidates)
        values = polynomial.predict(around)
        better = (row for row in np.argsort(-values, kind="stable").tolist() if values[row] > value)
        best = next((row for row in better if permits(absent_players(around[row]))), None)
        if best is None:
            return current
        current, value = around[best], float(values[best])
