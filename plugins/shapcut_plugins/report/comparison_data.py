"""The data of a comparison page."""

from pathlib import Path
from typing import Literal

from pydantic import Field

from shapcut_plugins.report.run_data import Cut, DifferenceFacts, Part, read_part

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


class ComparisonFacts(Part):
    """The whole comparison."""

    format_version: Literal[1]
    model: ModelFacts
    text: TextFacts
    dense_held_out_perplexity: float | None
    rows: tuple[RowFacts, ...]


def read_comparison(path: Path) -> ComparisonFacts:
    """Read ``comparison.json``.

    Raises:
        InputError: if it cannot be read.
    """
    return read_part(path, ComparisonFacts, again="repeat the comparison")


def method_cuts(comparison: ComparisonFacts) -> tuple[Method, ...]:
    """The cuts of each method, averaged over seeds."""
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
