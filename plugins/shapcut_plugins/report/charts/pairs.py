"""Charts of pairs: a heat map of interactions, predicted against measured values."""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from statistics import NormalDist

from shapcut_plugins.report.charts.scale import Plot, Scale

_MARGIN, _MAP_WIDTH, _SMALLEST, _LARGEST, _LABEL_WIDTH = 26, 300, 8.0, 24.0, 15
_FAINTEST, _MOST_CELLS = 0.1, 5000
LEFT, SIDE, TOP, BELOW = 52, 262, 10, 36
_MOST_DOTS = 1500

Matrix = Sequence[Sequence[float | None]]


@dataclass(frozen=True, slots=True)
class Cell:
    """One pair; ``strength`` is its share of the largest distance from the mean, from 0 to 1."""

    x: float
    y: float
    strength: float
    negative: bool
    text: str


@dataclass(frozen=True, slots=True)
class Pair:
    """The interaction of two players.

    Attributes:
        one: the first player.
        other: the second.
        value: the interaction.
        distance: its distance from the mean of all pairs.
        error: standard error of the distance; None if unknown.
    """

    one: int
    other: int
    value: float
    distance: float
    error: float | None


@dataclass(frozen=True, slots=True)
class Pairs:
    """The pairs of all players that can be absent.

    Attributes:
        every: all pairs, the furthest from their mean first.
        told_apart: those whose distance from the mean exceeds its uncertainty, in the same order.
        mean: the mean interaction.
    """

    every: tuple[Pair, ...]
    told_apart: tuple[Pair, ...]
    mean: float

    @property
    def errors_known(self) -> bool:
        """Whether the run recorded standard errors."""
        return any(pair.error is not None for pair in self.every)

    @classmethod
    def of(cls, values: Matrix, errors: Matrix | None, without: Collection[int] = ()) -> "Pairs":
        """Judge the pairs of a symmetric matrix, all together at 95 % confidence (Bonferroni).

        Args:
            values: interactions, shape (n_players, n_players).
            errors: standard errors of their distances from the mean, of the same shape, if known.
            without: players that can never be absent.
        """
        absent = set(without)
        found = [
            (one, other, value, None if errors is None else errors[one][other])
            for one, row in enumerate(values)
            for other, value in enumerate(row)
            if one < other and value is not None and one not in absent and other not in absent
        ]
        mean = sum(value for _, _, value, _ in found) / len(found) if found else 0.0
        every = [Pair(one, other, value, value - mean, error) for one, other, value, error in found]
        every.sort(key=lambda pair: -abs(pair.distance))
        factor = normal_quantile(len(every))
        told = [p for p in every if p.error is not None and abs(p.distance) > factor * p.error > 0.0]
        return cls(tuple(every), tuple(told), mean)


def normal_quantile(comparisons: int) -> float:
    """How many standard errors a distance must have, so that none of so many exceeds it by chance (95 %)."""
    return NormalDist().inv_cdf(1.0 - 0.025 / max(1, comparisons))


@dataclass(frozen=True, slots=True)
class HeatMap:
    """The geometry for the template.

    Attributes:
        size: width and height of the drawing.
        cell: side of a cell.
        cells: the pairs of players below the diagonal, at most `_MOST_CELLS`, the furthest first.
        left_out: number of pairs not drawn because there are more.
        labels: (place, player, whether it is removed), along both sides.
        margin: offset of the cells.
        strongest: the largest distance from the mean.
    """

    size: float
    cell: float
    cells: tuple[Cell, ...]
    left_out: int
    labels: tuple[tuple[float, int, bool], ...]
    margin: float
    strongest: float


def heat_map(pairs: Pairs, n_players: int, removed: Collection[int]) -> HeatMap | None:
    """Lay out the pairs that are told apart from the mean; None if there are none.

    Args:
        pairs: the pairs.
        n_players: how many players there are.
        removed: players with highlighted labels.
    """
    if not pairs.told_apart:
        return None
    strongest = abs(pairs.told_apart[0].distance)
    side = min(max(_MAP_WIDTH / n_players, _SMALLEST), _LARGEST)
    cells = tuple(
        Cell(
            x=round(_MARGIN + pair.one * side, 1),
            y=round(_MARGIN + pair.other * side, 1),
            strength=round(max(_FAINTEST, abs(pair.distance) / strongest), 3),
            negative=pair.distance < 0,
            text=f"{pair.one} and {pair.other}: {pair.value:+.3g}",
        )
        for pair in pairs.told_apart[:_MOST_CELLS]
    )
    every = math.ceil(_LABEL_WIDTH / side)
    shown = [player for player in range(n_players) if player % every == 0]
    return HeatMap(
        size=round(_MARGIN + n_players * side + 4, 1),
        cell=round(side, 1),
        cells=cells,
        left_out=len(pairs.told_apart) - len(cells),
        labels=tuple((round(_MARGIN + (p + 0.5) * side, 1), p, p in removed) for p in shown),
        margin=_MARGIN,
        strongest=strongest,
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
    """A chart of the coalitions of the target's size, if there are any, and one of all."""
    known = [point for point in points if math.isfinite(point[0]) and math.isfinite(point[1])]
    if len(known) < 2:  # noqa: PLR2004 - one point shows nothing
        return ()
    same = [point for point in known if point[2] == n_removed]
    charts = [_scatter(f"{n_removed} absent, as the cut", same, n_removed)] if len(same) > 1 else []
    if len(same) < len(known):
        charts.append(_scatter("all held-out coalitions", known, n_removed))
    return tuple(charts)


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
