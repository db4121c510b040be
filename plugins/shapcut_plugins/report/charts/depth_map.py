"""The geometry of a removal map: one row per cut or method, one column per player."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

_TOP, _ROW, _SMALLEST, _LARGEST, _WIDTH = 18, 20, 9.0, 20.0, 460
_LETTER = 6.5
_LABEL_WIDTH = 16
_LONGEST_NAME = 22
_MOST_COLUMNS = 1024


@dataclass(frozen=True, slots=True)
class DepthRow:
    """One row.

    Attributes:
        name: shortened if it is long.
        y: of its upper edge.
        right: x of its right edge.
        method: index of the method's colour on the page, or None.
        cells: (x, share of the removals that took this player, words) of each player that was taken.
    """

    name: str
    y: float
    right: float
    method: int | None
    cells: tuple[tuple[float, float, str], ...]


@dataclass(frozen=True, slots=True)
class DepthMap:
    """The geometry for the template."""

    width: float
    height: float
    left: float
    right: float
    top: float
    cell: float
    row_height: float
    labels: tuple[tuple[float, int], ...]
    rows: tuple[DepthRow, ...]


def depth_map(
    removals: Sequence[tuple[str, int | None, Sequence[Sequence[int]]]],
    n_players: int,
    sizes: Sequence[int] = (),
) -> DepthMap | None:
    """Lay out the removals of each cut or method; None if there are none, or too many players for a page.

    Args:
        removals: name, number of the method and the sets of players, one a seed.
        n_players: how many players there are, in the longest row.
        sizes: the players of each row, if they differ.
    """
    known = [(name, method, sets) for name, method, sets in removals if sets]
    if not known or not 0 < n_players <= _MOST_COLUMNS:
        return None
    cell = min(max(_WIDTH / n_players, _SMALLEST), _LARGEST)
    left = round(16 + _LETTER * max(len(_short(name)) for name, _, _ in known))
    rows = tuple(
        DepthRow(
            _short(name),
            _TOP + place * _ROW,
            round(left + (sizes[place] if sizes else n_players) * cell, 1),
            method,
            _cells(name, sets, left, cell),
        )
        for place, (name, method, sets) in enumerate(known)
    )
    every = math.ceil(_LABEL_WIDTH / cell)
    return DepthMap(
        width=round(left + n_players * cell + 8, 1),
        height=_TOP + len(rows) * _ROW + 4,
        left=left,
        right=round(left + n_players * cell, 1),
        top=_TOP,
        cell=round(cell - 1, 1),
        row_height=_ROW - 4,
        labels=tuple((round(left + (p + 0.5) * cell, 1), p) for p in range(0, n_players, every)),
        rows=rows,
    )


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else name[: _LONGEST_NAME - 1] + "…"


def _cells(
    name: str, sets: Sequence[Sequence[int]], left: float, cell: float
) -> tuple[tuple[float, float, str], ...]:
    cells = []
    for player in sorted({player for members in sets for player in members}):
        count = sum(player in members for members in sets)
        words = f"{name}: {player} removed" + (f" in {count} of {len(sets)} seeds" if len(sets) > 1 else "")
        cells.append((round(left + player * cell, 1), round(count / len(sets), 2), words))
    return tuple(cells)
