"""The geometry of many players' contributions: one row a layer, with ranges of what stays and what goes."""

import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from shapcut.contracts import LayerRemoval, RemovalPlan
from shapcut_plugins.report.charts.scale import Plot, Scale
from shapcut_plugins.report.run_data import PlayerFacts

LEFT, RIGHT, TOP, BELOW, ROW = 110, 16, 8, 40, 20
_PLOT_WIDTH = 440
_THICK = 7
_NARROW = 3.0
_MOST_ROWS = 512


@dataclass(frozen=True, slots=True)
class Range:
    """The contributions of some players of one layer; y points down.

    Attributes:
        x: of the lowest.
        y: of the upper edge.
        width: from the lowest to the highest.
        median: x of their median; None where the range is too narrow to show it.
        removed: whether these players are removed.
        text: in words.
    """

    x: float
    y: float
    width: float
    median: float | None
    removed: bool
    text: str


@dataclass(frozen=True, slots=True)
class LayerRow:
    """One layer.

    Attributes:
        name: the layer's name.
        y: of its middle.
        ranges: of the players that stay and of those that are removed, where there are any.
    """

    name: str
    y: float
    ranges: tuple[Range, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerChart(Plot):
    """One row a layer.

    Attributes:
        rows: from the first layer to the last.
        zero: x of the value 0.
        thick: height of a range.
    """

    rows: tuple[LayerRow, ...]
    zero: float
    thick: float = _THICK


def named_layers(plan: RemovalPlan) -> list[tuple[str, LayerRemoval]]:
    """What each layer loses, by a name of its own: a mixed cut has the parts and the experts of a layer."""
    layers, seen = plan.by_layer(), set[str]()
    count = Counter(layer.name for layer in layers)
    named = []
    for layer in layers:
        kind = "experts" if layer.name in seen else "parts"
        named.append((f"{layer.name}, {kind}" if count[layer.name] > 1 else layer.name, layer))
        seen.add(layer.name)
    return named


def layer_chart(players: Sequence[PlayerFacts], plan: RemovalPlan) -> LayerChart | None:
    """Lay out the contributions by layer; None without layers, with too many, or without a finite value.

    Args:
        players: every player, in order.
        plan: with its layers.
    """
    layers = named_layers(plan)
    values = {facts.player: facts.value for facts in players if facts.value is not None}
    if not layers or len(layers) > _MOST_ROWS or not values:
        return None
    scale = Scale.linear(min(0.0, *values.values()), max(0.0, *values.values()), LEFT, LEFT + _PLOT_WIDTH)
    rows, first = [], 0
    for place, (name, layer) in enumerate(layers):
        gone = {first + inside for inside in layer.removed}
        sides = (list[float](), list[float]())
        for player in range(first, first + layer.size):
            if player in values:
                sides[player in gone].append(values[player])
        y = TOP + place * ROW
        ranges = [
            _range(name, found, y + 2 + side * (_THICK + 1), scale, is_removed=bool(side))
            for side, found in enumerate(sides)
            if found
        ]
        rows.append(LayerRow(name, y + ROW / 2, tuple(ranges)))
        first += layer.size
    bottom = TOP + ROW * len(rows)
    return LayerChart(
        width=LEFT + _PLOT_WIDTH + RIGHT,
        height=bottom + BELOW,
        left=LEFT,
        right=LEFT + _PLOT_WIDTH,
        top=TOP,
        bottom=bottom,
        x_ticks=scale.ticks,
        y_ticks=(),
        rows=tuple(rows),
        zero=scale.place(0.0),
    )


def _range(layer: str, values: Sequence[float], y: float, scale: Scale, *, is_removed: bool) -> Range:
    low, middle, high = min(values), statistics.median(values), max(values)
    begin, end = scale.place(low), scale.place(high)
    fate = "removed" if is_removed else "stay"
    words = f"{layer}: {len(values)} {fate}, contributions {low:.4g} to {high:.4g}, median {middle:.4g}"
    width = round(max(end - begin, _NARROW), 1)
    median = scale.place(middle) if width > _NARROW else None
    return Range(begin, y, width, median, is_removed, words)
