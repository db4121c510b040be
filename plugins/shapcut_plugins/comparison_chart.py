"""The geometry of a chart of methods: held-out perplexity against tokens processed, both logarithmic."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from shapcut_plugins.comparison_data import RowFacts

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
        text: what it says, in words.
    """

    x: float
    y: float
    text: str


@dataclass(frozen=True, slots=True)
class Label:
    """A method's name beside its points."""

    x: float
    y: float
    text: str


@dataclass(frozen=True, slots=True)
class Chart:
    """All that a template needs to draw.

    Attributes:
        points: one a row that has a result.
        labels: one a method, moved apart where they would cover each other.
        x_ticks: (x, label).
        y_ticks: (y, label).
    """

    points: tuple[Point, ...]
    labels: tuple[Label, ...]
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]


def comparison_chart(rows: Sequence[RowFacts]) -> Chart | None:
    """Lay out the rows that have a finite perplexity; None if there are none."""
    shown = [(row, row.held_out_perplexity) for row in rows if row.held_out_perplexity]
    if not shown:
        return None
    tokens = [row.tokens for row, _ in shown if row.tokens] or [1]
    across = _Scale(math.log10(min(tokens)), math.log10(max(tokens)), _FIRST, WIDTH - RIGHT)
    losses = [math.log(perplexity) for _, perplexity in shown]
    down = _Scale(max(losses), min(losses), TOP + 10, BOTTOM - 10)
    points = [
        Point(
            across.place(math.log10(row.tokens)) if row.tokens else _NOTHING,
            down.place(math.log(perplexity)),
            f"{row.method}, seed {row.seed}: {perplexity:.2f} after {row.tokens:,} tokens",
        )
        for row, perplexity in shown
    ]
    powers = range(math.ceil(across.begin), math.floor(across.end) + 1)
    x_ticks = [(float(_NOTHING), "0"), *((across.place(power), f"1e{power}") for power in powers)]
    steps = [down.end + (down.begin - down.end) * share / 4 for share in range(5)]
    return Chart(
        points=tuple(points),
        labels=_labels([row.method for row, _ in shown], points),
        x_ticks=tuple(x_ticks),
        y_ticks=tuple((down.place(step), f"{math.exp(step):.4g}") for step in steps),
    )


@dataclass(frozen=True, slots=True)
class _Scale:
    """From values between ``begin`` and ``end`` to places between ``first`` and ``last``."""

    begin: float
    end: float
    first: float
    last: float

    def place(self, value: float) -> float:
        span = self.end - self.begin
        share = (value - self.begin) / span if span else 0.5
        return round(self.first + share * (self.last - self.first), 1)


def _labels(methods: Sequence[str], points: Sequence[Point]) -> tuple[Label, ...]:
    """A name at each method's mean point, from top to bottom, none nearer than a line to another."""
    middles = []
    for method in dict.fromkeys(methods):
        own = [point for name, point in zip(methods, points, strict=True) if name == method]
        middles.append((sum(p.y for p in own) / len(own), max(p.x for p in own), method))
    labels: list[Label] = []
    for y, x, method in sorted(middles):
        near = [label.y for label in labels if abs(label.x - x - 8) < RIGHT and label.y + _LINE > y + 4]
        labels.append(Label(x + 8, round(max(near) + _LINE if near else y + 4, 1), method))
    return tuple(labels)
