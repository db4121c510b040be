"""The data of a comparison page."""

from pathlib import Path
from typing import Literal

from pydantic import Field

from shapcut_plugins.report.run_data import (
    Change,
    Cut,
    DifferenceFacts,
    Part,
    geometric_mean,
    read_part,
)

_EQUAL = 1e-12

Method = tuple[str, list[Cut]]
"""A name and its cuts, the whole model first; no cuts without a finite result."""


class ModelFacts(Part):
    """The model of the comparison."""

    source: str
    class_name: str = Field(alias="class")
    players: int


class TextFacts(Part):
    """The text; shapes are (windows, tokens per window)."""

    calibration: str
    calibration_windows: tuple[int, int]
    held_out: str
    held_out_windows: tuple[int, int]
    held_out_fingerprint: str = ""
    adds_bos: bool


class RowFacts(Part):
    """One method for one number of players and one seed."""

    method: str
    source: str
    n_remove: int
    seed: int
    removed: tuple[int, ...]
    calibration_nats: float | None
    held_out_perplexity: float | None
    evaluations: int
    tokens: int
    seconds: float
    reason: str
    failure: str
    differences: tuple[DifferenceFacts, ...] = ()


class StandingFacts(Part):
    """One method for one number of players, over its seeds; an interval is (low, high)."""

    method: str
    n_remove: int
    seeds: int
    finite: int
    perplexity: float | None
    interval: tuple[float, float] | None = None
    lowest: float | None
    highest: float | None
    over_best: Change | None = None
    best: bool = False
    tokens: float
    seconds: float

    @property
    def place(self) -> str:
        """How far above the method with the lowest perplexity it is, in words."""
        if self.over_best is None:
            return "lowest" if self.best else "–"  # noqa: RUF001 - a dash in a table
        if abs(self.over_best.ratio - 1.0) < _EQUAL and self.over_best.low == self.over_best.high:
            return "equal"
        return f"{self.over_best.interval}: not told apart" if self.best else self.over_best.interval


class SummaryFacts(Part):
    """One method over all numbers of players."""

    method: str
    perplexity: float | None
    best: int
    sizes: int
    tokens: float
    seconds: float


class OtherTextFacts(Part):
    """Another text that the methods were judged on, and how they stand on it."""

    source: str
    windows: tuple[int, int]
    dense_perplexity: float | None
    standings: tuple[StandingFacts, ...]


class ComparisonFacts(Part):
    """The whole comparison; one of an older version has no intervals, so nobody is best in it."""

    format_version: Literal[1]
    model: ModelFacts
    text: TextFacts
    dense_held_out_perplexity: float | None
    other_texts: tuple[OtherTextFacts, ...] = ()
    rows: tuple[RowFacts, ...]
    summary: tuple[SummaryFacts, ...] = ()
    verdicts: dict[int, str] = Field(default_factory=dict)
    standings: tuple[StandingFacts, ...] = ()


def read_comparison(path: Path) -> ComparisonFacts:
    """Read ``comparison.json``.

    Raises:
        InputError: if it cannot be read.
    """
    return read_part(path, ComparisonFacts, again="repeat the comparison")


def method_cuts(comparison: ComparisonFacts) -> tuple[Method, ...]:
    """The cuts of each method, geometric means over seeds."""
    found: dict[str, dict[int, list[float]]] = {}
    for row in comparison.rows:
        sizes = found.setdefault(row.method, {})
        if row.held_out_perplexity is not None:
            sizes.setdefault(row.n_remove, []).append(row.held_out_perplexity)
    dense = comparison.dense_held_out_perplexity
    whole = [] if dense is None else [Cut.of(0, [dense])]
    return tuple(
        (name, whole + [Cut.of(size, seeds) for size, seeds in sorted(sizes.items())] if sizes else [])
        for name, sizes in found.items()
    )


def standings_of(comparison: ComparisonFacts) -> tuple[StandingFacts, ...]:
    """The methods for each number of players, the lowest perplexity first."""
    if comparison.standings:
        return comparison.standings
    groups: dict[tuple[int, str], list[RowFacts]] = {}
    for row in comparison.rows:
        groups.setdefault((row.n_remove, row.method), []).append(row)
    found = [_standing(rows) for rows in groups.values()]
    return tuple(
        sorted(found, key=lambda each: (each.n_remove, each.perplexity is None, each.perplexity or 0.0))
    )


def _standing(rows: list[RowFacts]) -> StandingFacts:
    known = [row.held_out_perplexity for row in rows if row.held_out_perplexity is not None]
    return StandingFacts(
        method=rows[0].method,
        n_remove=rows[0].n_remove,
        seeds=len(rows),
        finite=len(known),
        perplexity=geometric_mean(known) if len(known) == len(rows) else None,
        lowest=min(known, default=None),
        highest=max(known, default=None),
        tokens=sum(row.tokens for row in rows) / len(rows),
        seconds=sum(row.seconds for row in rows) / len(rows),
    )
