"""The geometry of a learning curve: loss against steps, one line for each text."""

import math
from collections.abc import Mapping, Sequence

from shapcut_plugins.report.charts.curve import (
    BELOW,
    LEFT,
    NAME_WIDTH,
    RIGHT,
    TOP,
    CurveChart,
    Mark,
    joined,
    labelled,
)
from shapcut_plugins.report.charts.scale import Scale

PLOT_WIDTH = 280
_BOTTOM = 200

Losses = Mapping[str, Sequence[tuple[int, float]]]
"""By name, (step, loss) pairs."""


def learning_chart(losses: Losses, form: str) -> CurveChart | None:
    """Lay out losses against steps; None unless two of them are finite and of different steps.

    Args:
        losses: by name.
        form: the format of a loss in words.
    """
    known = {name: _finite(points) for name, points in losses.items()}
    points = [point for found in known.values() for point in found]
    steps = [step for step, _ in points]
    if len(set(steps)) < 2:  # noqa: PLR2004 - a curve needs two
        return None
    values = [loss for _, loss in points]
    right = LEFT + PLOT_WIDTH
    down = Scale.linear(min(values), max(values), _BOTTOM, TOP)
    across = Scale.linear(min(steps), max(steps), LEFT, right)
    curves = []
    for method, (name, found) in enumerate(known.items()):
        marks = [
            _mark(across.place(step), down.place(loss), f"{name}, step {step:,}: {form.format(loss)}")
            for step, loss in found
        ]
        curves += [joined(name, method, marks, right)] if marks else []
    return CurveChart(
        width=right + (NAME_WIDTH if len(curves) > 1 else RIGHT),
        height=_BOTTOM + BELOW,
        left=LEFT,
        right=right,
        top=TOP,
        bottom=_BOTTOM,
        x_ticks=across.ticks,
        y_ticks=down.ticks,
        curves=labelled(curves, _BOTTOM),
        logarithmic=False,
    )


def _finite(points: Sequence[tuple[int, float]]) -> list[tuple[int, float]]:
    return [(step, loss) for step, loss in points if math.isfinite(loss)]


def _mark(x: float, y: float, words: str) -> Mark:
    return Mark(x, y, y, y, words)
