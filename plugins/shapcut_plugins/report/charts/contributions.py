"""The geometry of the chart of contributions: one bar per player, by depth."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from shapcut_plugins.report.charts.scale import Scale, Tick
from shapcut_plugins.report.run_data import PlayerFacts

LEFT, RIGHT, TOP, PLOT_HEIGHT, BELOW = 64, 12, 12, 220, 84
MOST_BARS = 128
"""With more players the page shows ranges by layer, see `shapcut_plugins.report.charts.layers`."""

_MIN_WIDTH, _MIN_STEP, _MAX_STEP = 640, 20, 64
_BAR_SHARE = 0.62


@dataclass(frozen=True, slots=True)
class Bar:
    """One player; lengths are in the chart's own units, y points down.

    Attributes:
        label: the player's index.
        text: the bar's description.
        middle: x of its middle.
        x: of its left edge.
        y: of its upper edge.
        width: of the bar.
        height: of the bar.
        whisker: y of both ends of the error bar, value plus and minus one standard error; None if unknown.
        removed: whether the player is removed.
        known: whether there is a finite value.
    """

    label: str
    text: str
    middle: float
    x: float
    y: float
    width: float
    height: float
    whisker: tuple[float, float] | None
    removed: bool
    known: bool


@dataclass(frozen=True, slots=True)
class Chart:
    """The geometry for the template.

    Attributes:
        width: of the whole drawing.
        height: of the whole drawing.
        left: x of the plot's left edge.
        right: x of its right edge.
        bottom: y of its lower edge.
        zero: y of the value 0.
        ticks: (y, label) of the grid lines.
        bars: one per player.
    """

    width: float
    height: float
    left: float
    right: float
    bottom: float
    zero: float
    ticks: tuple[Tick, ...]
    bars: tuple[Bar, ...]


def contribution_chart(players: Sequence[PlayerFacts], removed: Collection[int]) -> Chart:
    """Lay out one bar per player on an axis that includes 0 and all error bars.

    Args:
        players: at least one.
        removed: indices of the removed players.
    """
    step = min(max((_MIN_WIDTH - LEFT - RIGHT) / len(players), _MIN_STEP), _MAX_STEP)
    scale = Scale.linear(*_extent(players), TOP + PLOT_HEIGHT, TOP)
    right = LEFT + step * len(players)
    return Chart(
        width=round(right + RIGHT, 1),
        height=TOP + PLOT_HEIGHT + BELOW,
        left=LEFT,
        right=round(right, 1),
        bottom=TOP + PLOT_HEIGHT,
        zero=scale.place(0.0),
        ticks=scale.ticks,
        bars=tuple(
            _bar(facts, place, step, scale, is_removed=facts.player in removed)
            for place, facts in enumerate(players)
        ),
    )


def _extent(players: Sequence[PlayerFacts]) -> tuple[float, float]:
    ends = [0.0]
    for facts in players:
        if facts.value is not None:
            error = facts.standard_error or 0.0
            ends += [facts.value - error, facts.value + error]
    return min(ends), max(ends)


def _bar(facts: PlayerFacts, place: int, step: float, scale: Scale, *, is_removed: bool) -> Bar:
    value = facts.value or 0.0
    error = facts.standard_error
    edges = sorted((scale.place(value), scale.place(0.0)))
    middle = LEFT + step * (place + 0.5)
    whisker = None
    if facts.value is not None and error is not None:
        whisker = scale.place(value + error), scale.place(value - error)
    return Bar(
        label=str(facts.player),
        text=_words(facts, is_removed=is_removed),
        middle=round(middle, 1),
        x=round(middle - step * _BAR_SHARE / 2, 1),
        y=edges[0],
        width=round(step * _BAR_SHARE, 1),
        height=round(edges[1] - edges[0], 1),
        whisker=whisker,
        removed=is_removed,
        known=facts.value is not None,
    )


def _words(facts: PlayerFacts, *, is_removed: bool) -> str:
    value = "no finite contribution" if facts.value is None else f"contribution {facts.value:.4g}"
    error = "" if facts.standard_error is None else f", standard error {facts.standard_error:.2g}"
    return f"player {facts.player}: {value}{error}{', removed' if is_removed else ''}"
