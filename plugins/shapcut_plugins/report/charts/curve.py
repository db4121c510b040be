"""The geometry of curves: held-out perplexity against the number of removed players, one per method."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from shapcut_plugins.report.charts.scale import Plot, Scale, perplexity_scale
from shapcut_plugins.report.run_data import Cut

LEFT, RIGHT, TOP, BOTTOM, BELOW = 56, 12, 12, 270, 40
NAME_WIDTH = 150
_PLOT_WIDTH, _LINE = 400, 13


@dataclass(frozen=True, slots=True)
class Mark:
    """One cut; y points down."""

    x: float
    y: float
    low: float
    high: float
    text: str


@dataclass(frozen=True, slots=True)
class Curve:
    """One method.

    Attributes:
        name: the method's name.
        method: index of its colour throughout the page.
        path: the line through its marks.
        marks: its cuts.
        label: position of its name.
    """

    name: str
    method: int
    path: str
    marks: tuple[Mark, ...]
    label: tuple[float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class CurveChart(Plot):
    """One curve per method.

    Attributes:
        curves: in the order of the methods.
        logarithmic: whether the vertical axis is.
    """

    curves: tuple[Curve, ...]
    logarithmic: bool


def curve_chart(methods: Sequence[tuple[str, Sequence[Cut]]]) -> CurveChart | None:
    """Lay out the cuts of each method; None unless two cuts differ in size.

    Args:
        methods: names and cuts; cuts without a finite perplexity are dropped.
    """
    known = [(name, _finite(cuts)) for name, cuts in methods]
    cuts = [cut for _, finite in known for cut in finite]
    sizes = sorted({cut.removed for cut in cuts})
    if len(sizes) < 2:  # noqa: PLR2004 - a curve needs two
        return None
    down = perplexity_scale([end for cut in cuts for end in (cut.low, cut.high)], BOTTOM, TOP)
    across = Scale(sizes[0], sizes[-1], LEFT + 10, LEFT + _PLOT_WIDTH - 10, tuple(_apart(sizes)))
    curves = [
        _curve(name, order, finite, across, down) for order, (name, finite) in enumerate(known) if finite
    ]
    return CurveChart(
        width=LEFT + _PLOT_WIDTH + (NAME_WIDTH if len(curves) > 1 else RIGHT),
        height=BOTTOM + BELOW,
        left=LEFT,
        right=LEFT + _PLOT_WIDTH,
        top=TOP,
        bottom=BOTTOM,
        x_ticks=across.ticks,
        y_ticks=down.ticks,
        curves=labelled(curves, BOTTOM) if len(curves) > 1 else tuple(curves),
        logarithmic=down.logarithmic,
    )


def _finite(cuts: Sequence[Cut]) -> list[Cut]:
    usable = (cut for cut in cuts if math.isfinite(cut.high) and cut.low > 0)
    return sorted(usable, key=lambda cut: cut.removed)


def _apart(sizes: list[int]) -> list[int]:
    """Sizes whose labels do not touch."""
    least = (sizes[-1] - sizes[0]) / 16
    shown = sizes[:1]
    for size in sizes[1:]:
        if size - shown[-1] >= least:
            shown.append(size)
    return shown


def _curve(name: str, method: int, cuts: Sequence[Cut], across: Scale, down: Scale) -> Curve:
    marks = tuple(
        Mark(
            across.place(cut.removed),
            down.place(cut.perplexity),
            down.place(cut.low),
            down.place(cut.high),
            _words(name, cut),
        )
        for cut in cuts
    )
    return joined(name, method, marks, LEFT + _PLOT_WIDTH)


def joined(name: str, method: int, marks: Sequence[Mark], right: float) -> Curve:
    """A line through at least one mark, named beside ``right``."""
    path = " ".join(f"{'L' if place else 'M'}{mark.x} {mark.y}" for place, mark in enumerate(marks))
    return Curve(name, method, path, tuple(marks), (right + 4, marks[-1].y + 4))


def _words(name: str, cut: Cut) -> str:
    spread = f" (from {cut.low:,.2f} to {cut.high:,.2f})" if cut.low < cut.high else ""
    return f"{name}, {cut.removed} removed: perplexity {cut.perplexity:,.2f}{spread}"


def labelled(curves: Sequence[Curve], bottom: float) -> tuple[Curve, ...]:
    """The curves with their names at least a line apart, in the order of their last marks."""
    order = sorted(range(len(curves)), key=lambda place: curves[place].label[1])
    heights: dict[int, float] = {}
    lowest = float(TOP)
    for place in order:
        lowest = max(lowest + _LINE, curves[place].label[1])
        heights[place] = lowest
    highest = bottom + 4.0 + _LINE
    for place in reversed(order):  # names that ran out of the plot move up again, as far as they must
        highest = min(highest - _LINE, heights[place])
        heights[place] = highest
    return tuple(
        replace(curve, label=(curve.label[0], round(heights[place], 1))) for place, curve in enumerate(curves)
    )
