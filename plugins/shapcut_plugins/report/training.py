"""The trainings of a run, for the report."""

import math
from dataclasses import dataclass

from shapcut_plugins.report.charts.curve import CurveChart
from shapcut_plugins.report.charts.learning import learning_chart
from shapcut_plugins.report.run_data import CurveFacts, RunFacts

DrawnLosses = tuple[str, str, CurveChart]
"""Title, name of the vertical axis, and chart."""

_MOST_NATS = 50.0
"""More overflows."""


@dataclass(frozen=True, slots=True)
class Trained:
    """One training.

    Attributes:
        label: the cut's.
        step: the step in its text form.
        curve: its losses.
        charts: what can be drawn of them.
    """

    label: str
    step: str
    curve: CurveFacts
    charts: tuple[DrawnLosses, ...]


def trainings(facts: RunFacts) -> list[Trained]:
    """Every training of every cut."""
    return [
        Trained(label, step, curve, _charts(curve))
        for label, result in facts.cuts.items()
        for step, curve in result.curves.items()
    ]


def _charts(curve: CurveFacts) -> tuple[DrawnLosses, ...]:
    """Training loss and held-back texts apart; they may differ in kind, and texts in level."""
    trained = {"training": [(point.step, point.loss) for point in curve.points if point.loss is not None]}
    charts = (
        (f"Training: {curve.loss}", "nats a token", learning_chart(trained, "{:.4f}")),
        (
            "Text held back: perplexity against the start",
            "change in %",
            learning_chart({text: _changes(curve, text) for text in curve.texts}, "{:+.2f}%"),
        ),
    )
    return tuple((title, name, chart) for title, name, chart in charts if chart is not None)


def _changes(curve: CurveFacts, text: str) -> list[tuple[int, float]]:
    """(step, change of perplexity in percent) of one text, where both are finite."""
    start = curve.points[0].held_back.get(text, math.nan)
    more = [(point.step, point.held_back[text] - start) for point in curve.points if text in point.held_back]
    return [(step, 100 * math.expm1(min(nats, _MOST_NATS))) for step, nats in more if math.isfinite(nats)]
