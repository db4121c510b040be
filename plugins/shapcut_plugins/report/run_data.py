"""The data of a report: the files of a run, validated on reading."""

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from shapcut.contracts import InputError, RemovalPlan, Run, ServingRecord, apart, read_json


class Part(BaseModel):
    """Plain data of a run; keys that a report does not show are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore")


def number(value: Any) -> float | None:
    """A JSON number, or the word for an infinity or NaN; None for anything else."""
    if isinstance(value, str):
        return float(value) if value in ("Infinity", "-Infinity", "NaN") else None
    return None if isinstance(value, bool) or not isinstance(value, int | float) else float(value)


class ModelFacts(Part):
    """The pruned model."""

    source: str
    class_name: str = Field(alias="class")
    adapter: str
    players: int


class TextFacts(Part):
    """The text; shapes are (windows, tokens per window), finals in equal parts."""

    source: str
    calibration: tuple[int, int]
    finals: tuple[tuple[int, int], ...] = ()
    held_out: tuple[int, int]
    adds_bos: bool


class CostFacts(Part):
    """Work charged to a method as if nothing had been stored by an earlier start."""

    evaluations: int
    tokens: int


class Phase(Part):
    """The cost of a run at the end of a phase; all but the seconds count from the start of the run."""

    seconds: float = 0.0
    evaluations_asked: int | None = None
    evaluations_measured: dict[str, int] = Field(default_factory=dict)
    block_runs: int | None = None
    cost: CostFacts | None = None

    @property
    def measured(self) -> str:
        """The number of measured coalitions, on the calibration text and on the finalists' text."""
        parts = {name.partition("-")[0]: 0 for name in self.evaluations_measured}
        for name, count in self.evaluations_measured.items():
            parts[name.partition("-")[0]] += count
        return "; ".join(f"{count:,} {name}" for name, count in parts.items())


class CheckpointFacts(Part):
    """The written checkpoint and its agreement with the expected logits."""

    directory: str
    max_logit_difference: float
    tolerance: float


class Change(Part):
    """A figure of the pruned model over the original's, with its 95 % interval."""

    ratio: float
    low: float | None
    high: float | None
    told_apart: bool

    @property
    def interval(self) -> str:
        """The interval as a change in percent; empty without one."""
        if self.low is None or self.high is None:
            return ""
        low, high = apart([100 * (self.low - 1), 100 * (self.high - 1)], "{:+,.1f}%")
        return f"{low} to {high}"


class DifferenceFacts(Part):
    """The difference of two models' accuracies on the same questions, with its 95 % interval."""

    task: str
    metric: str
    questions: int
    before: float
    after: float
    difference: float
    low: float
    high: float


class ContinuationFacts(Part):
    """One text, continued by both models."""

    prompt: str
    dense: str
    pruned: str


class WorseFacts(Part):
    """A held-out text whose loss grew."""

    text: str
    dense_nats: float
    pruned_nats: float


class WritingFacts(Part):
    """What both models write."""

    continuations: tuple[ContinuationFacts, ...]
    worse: tuple[WorseFacts, ...]
    windows: int
    grew: int


class PointFacts(Part):
    """The losses after a number of steps; a loss that is not finite is a word."""

    step: int
    loss: float | None
    held_back: dict[str, float] = Field(default_factory=dict)


class CurveFacts(Part):
    """The losses of a training, by step."""

    loss: str
    kept: bool
    points: tuple[PointFacts, ...] = Field(min_length=1)

    @property
    def texts(self) -> tuple[str, ...]:
        """The texts held back."""
        return tuple(dict.fromkeys(text for point in self.points for text in point.held_back))


class Result(Part):
    """The result of a pruning; for the figures see `shapcut_plugins.report.figures`."""

    plan: RemovalPlan
    dense: dict[str, Any]
    pruned: dict[str, Any]
    checkpoint: CheckpointFacts
    changes: dict[str, Change] = Field(default_factory=dict)
    differences: tuple[DifferenceFacts, ...] = ()
    writing: WritingFacts | None = None
    steps: tuple[str, ...] = ()
    curves: dict[str, CurveFacts] = Field(default_factory=dict)

    @property
    def perplexities(self) -> tuple[float | None, float | None]:
        """Held-out perplexity of the original and of the pruned model; None where unavailable."""
        found = [model.get("perplexity") for model in (self.dense, self.pruned)]
        before, after = (number(part.get("perplexity")) if isinstance(part, dict) else None for part in found)
        return before, after


class Point(Part):
    """One of several cuts."""

    target: str
    removed: int
    value: float | None
    held_out_perplexity: float
    parameters: int


class Series(Part):
    """Several cuts of one run, the whole model first."""

    curve: tuple[Point, ...]
    results: dict[str, Result] = Field(default_factory=dict)


class ManifestFacts(Part):
    """The manifest; ``result`` is None until something is removed."""

    format_version: Literal[1]
    status: str
    started: str
    finished: str | None = None
    command: str
    recipe: dict[str, Any]
    model: ModelFacts
    text: TextFacts
    fingerprint: dict[str, Any]
    versions: dict[str, Any]
    machine: dict[str, Any]
    phases: dict[str, Phase]
    result: Result | None = None
    series: Series | None = None


class PlayerFacts(Part):
    """One player's contribution; None where it is not finite."""

    player: int
    value: float | None
    standard_error: float | None


class TargetFacts(Part):
    """The surrogate's fidelity on coalitions of the size that is removed."""

    n_remove: int
    coalitions: int
    r_squared: float | None
    spearman: float | None
    spearman_interval: tuple[float, float] | None
    pairs_ordered: float | None
    in_words: str = Field(min_length=1)


class FidelityFacts(Part):
    """The surrogate's fidelity on coalitions that it was not fitted to."""

    r_squared: float | None
    spearman: float | None
    spearman_better_half: float | None
    coalitions: int
    predicted: tuple[float | None, ...] = ()
    measured: tuple[float | None, ...] = ()
    absent: tuple[int, ...] = ()
    at_target: TargetFacts | None = None

    @property
    def points(self) -> list[tuple[float, float, int | None]]:
        """(predicted, measured, players absent if known) of each coalition that has both values."""
        absent = self.absent if len(self.absent) == len(self.measured) else (None,) * len(self.measured)
        rows = zip(self.predicted, self.measured, absent, strict=False)
        return [(one, other, count) for one, other, count in rows if one is not None and other is not None]


class HalvesFacts(Part):
    """Agreement of contributions from two halves of the calibration text."""

    kendall: float | None
    spearman: float | None
    coalitions: int


class RobustnessFacts(Part):
    """Dependence of contributions on the sampled coalitions and on the text."""

    resamples: int
    rank_stability_kendall: float | None
    bootstrap_standard_errors: tuple[float | None, ...] | None = None
    calibration_halves: HalvesFacts


class ContributionFacts(Part):
    """The contributions of all players."""

    format_version: Literal[1]
    estimator: str
    weighting: str
    full_value: float | None
    evaluations: int
    excluded_non_finite: int
    players: tuple[PlayerFacts, ...]
    fidelity_held_out: FidelityFacts | None = None
    robustness: RobustnessFacts | None = None
    interactions: tuple[tuple[float | None, ...], ...] | None = None
    interaction_errors: tuple[tuple[float | None, ...], ...] | None = None

    @model_validator(mode="after")
    def _require_matrices(self) -> "ContributionFacts":
        count = len(self.players)
        for matrix in (self.interactions, self.interaction_errors):
            if matrix is not None and [len(row) for row in matrix] != [count] * count:
                raise ValueError(f"interactions need {count} rows of {count} numbers, one for each player")
        return self

    @property
    def halves_tell(self) -> bool:
        """Whether both halves of the text have a coalition for each player, at least."""
        return self.robustness is not None and self.robustness.calibration_halves.coalitions >= len(
            self.players
        )

    @property
    def fixed(self) -> tuple[int, ...]:
        """Players without a finite contribution, such as those that can never be absent."""
        return tuple(facts.player for facts in self.players if facts.value is None)


def geometric_mean(perplexities: Sequence[float]) -> float:
    """Their geometric mean, the perplexity of the mean loss; not finite if one is not, or is not positive."""
    if any(not 0.0 < each < math.inf for each in perplexities):
        return math.nan if any(math.isnan(each) or each <= 0.0 for each in perplexities) else math.inf
    return perplexities[0] if len(perplexities) == 1 else statistics.geometric_mean(perplexities)


@dataclass(frozen=True, slots=True)
class Cut:
    """The result of removing a number of players.

    Attributes:
        removed: number of removed players.
        perplexity: on held-out text, the geometric mean over seeds; not finite if unknown.
        low: the lowest over seeds.
        high: the highest over seeds.
    """

    removed: int
    perplexity: float
    low: float
    high: float

    @classmethod
    def of(cls, removed: int, perplexities: Iterable[float]) -> "Cut":
        """Aggregate at least one perplexity."""
        known = list(perplexities)
        return cls(removed, geometric_mean(known), min(known), max(known))


@dataclass(frozen=True, slots=True)
class RunFacts:
    """The facts of a run.

    Attributes:
        manifest: inputs and progress.
        contributions: None if no player was scored.
        plan: the removal, carried out or not; None if nothing was selected.
        serving: checks of the results in inference engines.
    """

    manifest: ManifestFacts
    contributions: ContributionFacts | None
    plan: RemovalPlan | None
    serving: ServingRecord = field(default_factory=ServingRecord)

    @property
    def cuts(self) -> dict[str, Result]:
        """The cuts carried out: none, a single one, or several, the smallest first."""
        if self.manifest.series is not None:
            return self.manifest.series.results
        return {} if self.manifest.result is None else {"pruned": self.manifest.result}

    @property
    def largest(self) -> RemovalPlan | None:
        """The plan; of several cuts, that of the largest; None if nothing was selected."""
        if self.plan is not None:
            return self.plan
        results = list(self.cuts.values())
        return results[-1].plan if results else None

    @property
    def removed(self) -> tuple[int, ...]:
        """The removed (or selected) players; of several cuts, those of the largest."""
        return self.largest.removed if self.largest is not None else ()


FactsT = TypeVar("FactsT", bound=Part)


def read_run(run: Run) -> RunFacts:
    """Read the files of a run.

    Raises:
        InputError: if it is not a run directory, or one of its files is unreadable.
    """
    if not run.directory.is_dir():
        raise InputError(f"{run.directory} is not a directory; pass the directory of a --run")
    if not run.manifest.is_file():
        raise InputError(f"{run.directory} has no {run.manifest.name}, so it is not the directory of a run")
    manifest = read_part(run.manifest, ManifestFacts)
    plan = manifest.result.plan if manifest.result else None
    if plan is None and manifest.series is None and run.plan.exists():
        plan = RemovalPlan.read(run.plan)
    contributions = read_part(run.contributions, ContributionFacts) if run.contributions.exists() else None
    return RunFacts(manifest, contributions, plan, ServingRecord.read(run.serving))


def read_part(path: Path, kind: type[FactsT], *, again: str = "repeat the run") -> FactsT:
    """Read one JSON file.

    Raises:
        InputError: if it is unreadable or invalid; ``again`` is the remedy in the message.
    """
    try:
        return kind.model_validate(read_json(path))
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "the file"
        raise InputError(f"{path} is damaged: {place}: {first['msg']}; {again}") from error
    except ValueError as error:
        raise InputError(f"{path} is damaged: {error}; {again}") from error
