"""The geometry of charts of pairs: a heat map of interactions, predicted against measured values."""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from shapcut_plugins.report.charts.scale import Plot, Scale

_MARGIN, _MAP_WIDTH, _SMALLEST, _LARGEST, _LABEL_WIDTH = 26, 300, 8.0, 24.0, 15
_FAINTEST, _MOST_CELLS = 0.02, 5000
LEFT, SIDE, TOP, BELOW = 52, 262, 10, 36
_MOST_DOTS = 1500


@dataclass(frozen=True, slots=True)
class Cell:
    """One pair; ``strength`` is its share of the strongest, from 0 to 1."""

    x: float
    y: float
    strength: float
    negative: bool
    text: str


@dataclass(frozen=True, slots=True)
class HeatMap:
    """The geometry for the template.

    Attributes:
        size: width and height of the drawing.
        cell: side of a cell.
        cells: the pairs of players below the diagonal, at most `_MOST_CELLS`, the strongest first.
        left_out: number of pairs not drawn because there are more.
        labels: (place, player, whether it is removed), along both sides.
        margin: offset of the cells.
        strongest: absolute value of the strongest interaction.
        pairs: (player, other, interaction), the strongest first.
    """

    size: float
    cell: float
    cells: tuple[Cell, ...]
    left_out: int
    labels: tuple[tuple[float, int, bool], ...]
    margin: float
    strongest: float
    pairs: tuple[tuple[int, int, float], ...]


def strongest_pairs(
    interactions: Sequence[Sequence[float | None]], without: Collection[int] = ()
) -> list[tuple[int, int, float]]:
    """(player, later player, interaction), the strongest first, except for players in ``without``."""
    absent = set(without)
    pairs = [
        (one, other, value)
        for one, row in enumerate(interactions)
        for other, value in enumerate(row)
        if one < other and value is not None and one not in absent and other not in absent
    ]
    return sorted(pairs, key=lambda pair: -abs(pair[2]))


def heat_map(
    interactions: Sequence[Sequence[float | None]], removed: Collection[int], without: Collection[int] = ()
) -> HeatMap | None:
    """Lay out a symmetric matrix; None if it is 0.

    Args:
        interactions: shape (n_players, n_players).
        removed: players with highlighted labels.
        without: players that can never be absent; their cells stay empty.
    """
    pairs = strongest_pairs(interactions, without)
    if not pairs or pairs[0][2] == 0.0:
        return None
    n_players, strongest = len(interactions), abs(pairs[0][2])
    side = min(max(_MAP_WIDTH / n_players, _SMALLEST), _LARGEST)
    drawn = [pair for pair in pairs if abs(pair[2]) >= _FAINTEST * strongest]
    cells = tuple(
        Cell(
            x=round(_MARGIN + one * side, 1),
            y=round(_MARGIN + other * side, 1),
            strength=round(abs(value) / strongest, 3),
            negative=value < 0,
            text=f"{one} and {other}: {value:+.3g}",
        )
        for one, other, value in drawn[:_MOST_CELLS]
    )
    every = math.ceil(_LABEL_WIDTH / side)
    shown = [player for player in range(n_players) if player % every == 0]
    return HeatMap(
        size=round(_MARGIN + n_players * side + 4, 1),
        cell=round(side, 1),
        cells=cells,
        left_out=len(drawn) - len(cells),
        labels=tuple((round(_MARGIN + (p + 0.5) * side, 1), p, p in removed) for p in shown),
        margin=_MARGIN,
        strongest=strongest,
        pairs=tuple(pairs),
    )


@dataclass(frozen=True, slots=True)
class Dot:
    """One coalition."""

    x: float
    y: float
    text: str
    of_target_size: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Scatter(Plot):
    """Predicted against measured values, on equal axes.

    Attributes:
        title: which coalitions these are.
        dots: at most `_MOST_DOTS`.
        left_out: number of dots not drawn.
    """

    title: str
    dots: tuple[Dot, ...]
    left_out: int


Triple = tuple[float, float, int | None]
"""A predicted value, a measured value, and the number of absent players."""


def scatters(points: Sequence[Triple], n_removed: int) -> tuple[Scatter, ...]:
    """A chart of all points and, because bad coalitions stretch the axes, one of the better half."""
    known = [point for point in points if math.isfinite(point[0]) and math.isfinite(point[1])]
    if len(known) < 2:  # noqa: PLR2004 - one point shows nothing
        return ()
    middle = sorted(measured for _, measured, _ in known)[len(known) // 2]
    better = [point for point in known if point[1] >= middle]
    return _scatter("all", known, n_removed), _scatter("the better half", better, n_removed)


def _scatter(title: str, points: Sequence[Triple], n_removed: int) -> Scatter:
    ends = [value for predicted, measured, _ in points for value in (predicted, measured)]
    across = Scale.linear(min(ends), max(ends), LEFT, LEFT + SIDE)
    up = Scale.linear(min(ends), max(ends), TOP + SIDE, TOP)
    shown = points[:: math.ceil(len(points) / _MOST_DOTS)]
    dots = tuple(
        Dot(
            across.place(predicted),
            up.place(measured),
            _words(predicted, measured, absent),
            absent is not None and absent == n_removed,
        )
        for predicted, measured, absent in shown
    )
    return Scatter(
        title=title,
        width=LEFT + SIDE + 16,
        height=TOP + SIDE + BELOW,
        left=LEFT,
        right=LEFT + SIDE,
        top=TOP,
        bottom=TOP + SIDE,
        x_ticks=across.ticks,
        y_ticks=up.ticks,
        dots=dots,
        left_out=len(points) - len(shown),
    )


def _words(predicted: float, measured: float, absent: int | None) -> str:
    size = "" if absent is None else f"{absent} absent: "
    return f"{size}predicted {predicted:.4g}, measured {measured:.4g}"
