"""What a model is worth and what it costs: perplexity, parameters, memory, latency."""

from pydantic import BaseModel, ConfigDict

from shapcut.measurement.cache_size import CacheSizes
from shapcut.measurement.latency import LatencyResult
from shapcut.measurement.perplexity import PerplexityResult


class TaskScore(BaseModel):
    """What a model reached on one task of lm-evaluation-harness.

    Attributes:
        task: the task's name.
        samples: number of its examples that were asked.
        shots: number of solved examples before each question.
        metrics: by name, as the task gives them: accuracy, perplexity, ...
        errors: standard errors of those metrics that have one.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")

    task: str
    samples: int
    shots: int
    metrics: dict[str, float]
    errors: dict[str, float]


class ModelMeasurement(BaseModel):
    """All figures of one model; ``model_dump_json()`` writes infinities and NaN as strings.

    Attributes:
        parameters: number of distinct parameters.
        weight_bytes: memory of parameters and buffers.
        checkpoint_bytes: size of the weight files, or None if there are none.
        peak_memory_bytes: the most that this process has held (on a GPU: that was allocated there) so far,
            or since the figure was started anew; None where the platform cannot tell.
        perplexity: on the held-out text.
        held_out_source: where the text came from.
        held_out_fingerprint: of its token ids.
        sequence_length: tokens a window.
        stride: tokens by which overlapping windows move on; None: each window is read on its own.
        adds_bos: whether each window begins with a BOS token.
        latency: None if it was not measured.
        caches: what generation remembers; None if it was not measured.
        tasks: of lm-evaluation-harness; None if there were none.
        notes: one line for each figure that could not be measured.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")

    parameters: int
    weight_bytes: int
    checkpoint_bytes: int | None
    peak_memory_bytes: int | None
    perplexity: PerplexityResult
    held_out_source: str
    held_out_fingerprint: str
    sequence_length: int
    adds_bos: bool
    latency: LatencyResult | None
    stride: int | None = None
    caches: CacheSizes | None = None
    tasks: tuple[TaskScore, ...] | None = None
    notes: tuple[str, ...] = ()
