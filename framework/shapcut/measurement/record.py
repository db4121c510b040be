"""The figures of one model: perplexity, parameters, memory, latency, task scores."""

from pydantic import BaseModel, ConfigDict

from shapcut.game.interval import Ratio, ratio_of_means
from shapcut.measurement.cache_size import CacheSizes
from shapcut.measurement.latency import LatencyResult
from shapcut.measurement.perplexity import PerplexityResult
from shapcut.measurement.writing import Writing


class TaskScore(BaseModel):
    """A model's score on one task of lm-evaluation-harness.

    Attributes:
        task: the task's name.
        samples: number of examples asked.
        shots: number of solved examples before each question.
        metrics: by name, as defined by the task: accuracy, perplexity, ...
        errors: standard errors, for metrics that have one.
        answers: for metrics that say of each question whether the answer is right: a digit a question, 1 if
            it is.
        questions: digest of the questions, in order.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")

    task: str
    samples: int
    shots: int
    metrics: dict[str, float]
    errors: dict[str, float]
    answers: dict[str, str] = {}
    questions: str = ""


class TextMeasurement(BaseModel):
    """A model's perplexity on one more text, read as the held-out text is.

    Attributes:
        source: source of the text.
        fingerprint: of its token ids.
        perplexity: on its held-out quarter.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")

    source: str
    fingerprint: str
    perplexity: PerplexityResult

    @property
    def figure(self) -> str:
        """The name of its perplexity among the figures of a model."""
        return f"perplexity on {self.source}"


class ModelMeasurement(BaseModel):
    """The figures of one model; ``model_dump_json()`` writes infinities and NaN as strings.

    Attributes:
        parameters: number of distinct parameters.
        weight_bytes: memory of parameters and buffers.
        checkpoint_bytes: size of the weight files, or None if there are none.
        peak_memory_bytes: peak memory of this process (on a GPU: allocated there) since its start or the last
            reset; None where the platform does not report it.
        perplexity: on the held-out text.
        held_out_source: source of the text.
        held_out_fingerprint: of its token ids.
        sequence_length: tokens per window.
        stride: tokens by which overlapping windows move on; None: each window is read on its own.
        adds_bos: whether each window begins with a BOS token.
        latency: None if not measured.
        caches: sizes of the generation state; None if not measured.
        tasks: scores on lm-evaluation-harness; None if no task was asked.
        writing: what the model writes; None if it was not asked to write.
        other_texts: perplexities on other texts.
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
    writing: Writing | None = None
    other_texts: tuple[TextMeasurement, ...] = ()
    notes: tuple[str, ...] = ()

    def other_text(self, source: str) -> TextMeasurement | None:
        """The measurement on another text, or None."""
        return next((each for each in self.other_texts if each.source == source), None)


def paired_texts(
    before: ModelMeasurement, after: ModelMeasurement
) -> list[tuple[TextMeasurement, TextMeasurement]]:
    """The measurements of two models on each other text that both were judged on."""
    pairs = [(before.other_text(text.source), text) for text in after.other_texts]
    return [(first, last) for first, last in pairs if first is not None]


def changes(before: ModelMeasurement, after: ModelMeasurement) -> dict[str, Ratio]:
    """Each figure with an uncertainty, of one model over the same figure of another.

    Perplexities are paired by window, durations are not paired. A figure that was measured differently for
    the two models is left out.

    Returns:
        By path, such as ``perplexity.perplexity`` and ``latency.decode_seconds``; on other texts by
        `TextMeasurement.figure`.
    """
    found = {}
    if before.held_out_fingerprint == after.held_out_fingerprint and before.stride == after.stride:
        quality = after.perplexity.ratio_to(before.perplexity)
        if quality is not None:
            found["perplexity.perplexity"] = quality
    found |= _changes_on_other_texts(before, after)
    first, last = before.latency, after.latency
    if first is None or last is None or _question(first) != _question(last):
        return found
    for phase in ("prefill", "decode"):
        medians = [getattr(timed, f"{phase}_seconds") for timed in (first, last)]
        if medians[0] > 0.0:
            samples = [getattr(timed, f"{phase}_samples") for timed in (first, last)]
            found[f"latency.{phase}_seconds"] = Ratio(medians[1] / medians[0], ratio_of_means(*samples))
    return found


def _changes_on_other_texts(before: ModelMeasurement, after: ModelMeasurement) -> dict[str, Ratio]:
    found = {}
    for first, last in paired_texts(before, after):
        quality = last.perplexity.ratio_to(first.perplexity)
        if first.fingerprint == last.fingerprint and before.stride == after.stride and quality is not None:
            found[last.figure] = quality
    return found


def _question(timed: LatencyResult) -> tuple[int, int, int]:
    return timed.prompt_tokens, timed.new_tokens, timed.batch_size
