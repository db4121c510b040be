"""What a report is made from: the files of a run, read through one strict entrance."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from shapcut.errors import InputError
from shapcut.plan import RemovalPlan
from shapcut.run import Run


class Part(BaseModel):
    """Plain data of a run; keys that a report does not show are left alone."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class ModelFacts(Part):
    """Which model was pruned."""

    source: str
    class_name: str = Field(alias="class")
    adapter: str
    players: int


class TextFacts(Part):
    """Which text was used; shapes are (windows, tokens a window), finals in equal parts."""

    source: str
    calibration: tuple[int, int]
    finals: tuple[tuple[int, int], ...] = ()
    held_out: tuple[int, int]
    adds_bos: bool


class Phase(Part):
    """What a run had cost when a phase ended; all but the seconds count from the start of the run."""

    seconds: float = 0.0
    evaluations_asked: int | None = None
    evaluations_measured: dict[str, int] = Field(default_factory=dict)
    block_runs: int | None = None


class PerplexityFacts(Part):
    """Perplexity on held-out text; infinity and NaN are possible."""

    perplexity: float
    n_tokens: int


class LatencyFacts(Part):
    """Seconds of the two phases of generation."""

    prefill_seconds: float
    decode_seconds: float
    prompt_tokens: int


class Measurement(Part):
    """The figures of one model."""

    parameters: int
    weight_bytes: int
    checkpoint_bytes: int | None = None
    perplexity: PerplexityFacts
    latency: LatencyFacts | None = None


class CheckpointFacts(Part):
    """The written checkpoint and how well it agrees with what was expected."""

    directory: str
    max_logit_difference: float
    tolerance: float


class Result(Part):
    """What a pruning led to."""

    plan: RemovalPlan
    dense: Measurement
    pruned: Measurement
    checkpoint: CheckpointFacts


class ManifestFacts(Part):
    """The manifest; ``result`` is None as long as nothing was removed."""

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


class PlayerFacts(Part):
    """One player's contribution; None where there is no finite figure."""

    player: int
    value: float | None
    standard_error: float | None


class FidelityFacts(Part):
    """How well the surrogate predicts coalitions that it was not fitted to."""

    r_squared: float | None
    spearman: float | None
    spearman_better_half: float | None
    coalitions: int


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


@dataclass(frozen=True, slots=True)
class RunFacts:
    """All that is known of a run.

    Attributes:
        manifest: what was done and with what.
        contributions: None if no player was scored.
        plan: what was removed, or what would be; None if nothing was chosen.
    """

    manifest: ManifestFacts
    contributions: ContributionFacts | None
    plan: RemovalPlan | None


FactsT = TypeVar("FactsT", bound=Part)


def read_run(run: Run) -> RunFacts:
    """Read the files of a run.

    Raises:
        InputError: if it is not the directory of a run, or a file of it cannot be read.
    """
    if not run.directory.is_dir():
        raise InputError(f"{run.directory} is not a directory; name what --run was given")
    if not run.manifest.is_file():
        raise InputError(f"{run.directory} has no {run.manifest.name}, so it is not the directory of a run")
    manifest = _read(run.manifest, ManifestFacts)
    plan = manifest.result.plan if manifest.result else None
    if plan is None and run.plan.exists():
        plan = RemovalPlan.read(run.plan)
    contributions = _read(run.contributions, ContributionFacts) if run.contributions.exists() else None
    return RunFacts(manifest, contributions, plan)


def _read(path: Path, kind: type[FactsT]) -> FactsT:
    try:
        return kind.model_validate_json(path.read_bytes())
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "the file"
        raise InputError(f"{path} is damaged: {place}: {first['msg']}; repeat the run") from error
