"""The geometry of a chart of methods: held-out perplexity against tokens processed."""

from collections.abc import Sequence
from dataclasses import dataclass

from shapcut_plugins.report.charts.scale import Scale, Tick, perplexity_scale
from shapcut_plugins.report.comparison_data import RowFacts

WIDTH, HEIGHT = 760, 360
LEFT, RIGHT, TOP, BOTTOM = 64, 150, 14, 312
_NOTHING = LEFT + 20
_FIRST = LEFT + 70
_LINE = 13


@dataclass(frozen=True, slots=True)
class Point:
    """One row; y points down.

    Attributes:
        x: of its middle; methods that process no token have a place of their own at the left.
        y: of its middle.
        text: its description.
        method: its method's number on the page.
    """

    x: float
    y: float
    text: str
    method: int


@dataclass(frozen=True, slots=True)
class Label:
    """A method's name beside its points."""

    x: float
    y: float
    text: str
    method: int


@dataclass(frozen=True, slots=True)
class Chart:
    """The geometry for the template.

    Attributes:
        points: one a row that has a result.
        labels: one a method, moved apart where they would cover each other.
        x_ticks: (x, label).
        y_ticks: (y, label).
        logarithmic: whether perplexities are; tokens are always.
    """

    points: tuple[Point, ...]
    labels: tuple[Label, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    logarithmic: bool


def comparison_chart(rows: Sequence[RowFacts], methods: Sequence[str]) -> Chart | None:
    """Lay out the rows with a finite perplexity; None if there are none.

    Args:
        rows: of one number of players.
        methods: all methods of the page, in the order that their colours have.
    """
    shown = [(row, row.held_out_perplexity) for row in rows if row.held_out_perplexity]
    if not shown:
        return None
    tokens = [row.tokens for row, _ in shown if row.tokens] or [1]
    across = Scale.powers(min(tokens), max(tokens), _FIRST, WIDTH - RIGHT)
    down = perplexity_scale([perplexity for _, perplexity in shown], BOTTOM - 6, TOP + 6)
    points = [
        Point(
            across.place(row.tokens) if row.tokens else _NOTHING,
            down.place(perplexity),
            f"{row.method}, seed {row.seed}: {perplexity:.2f} after {row.tokens:,} tokens",
            methods.index(row.method),
        )
        for row, perplexity in shown
    ]
    return Chart(
        points=tuple(points),
        labels=_labels(methods, points),
        x_ticks=((float(_NOTHING), "0"), *across.ticks),
        y_ticks=down.ticks,
        logarithmic=down.logarithmic,
    )


def _labels(methods: Sequence[str], points: Sequence[Point]) -> tuple[Label, ...]:
    """A name at each method's mean point, from top to bottom, at least a line apart."""
    middles = []
    for method, name in enumerate(methods):
        own = [point for point in points if point.method == method]
        if own:
            middles.append((sum(p.y for p in own) / len(own), max(p.x for p in own), method, name))
    labels: list[Label] = []
    for y, x, method, name in sorted(middles):
        near = [label.y for label in labels if abs(label.x - x - 8) < RIGHT and label.y + _LINE > y + 4]
        labels.append(Label(x + 8, round(max(near) + _LINE if near else y + 4, 1), name, method))
    return tuple(labels)
