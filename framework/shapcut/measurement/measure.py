"""Measure a finished model; note each figure that is unavailable."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from shapcut.data.windows import Calibration
from shapcut.measurement.cache_size import CacheSizes, cache_sizes
from shapcut.measurement.latency import LatencyResult, latency
from shapcut.measurement.lm_eval_tasks import Harness
from shapcut.measurement.notes import Notes
from shapcut.measurement.perplexity import PerplexityResult, SlidingWindow, perplexity, sliding_perplexity
from shapcut.measurement.record import ModelMeasurement, TextMeasurement
from shapcut.measurement.sizes import checkpoint_bytes, parameter_count, peak_memory_bytes, weight_bytes
from shapcut.measurement.writing import written
from shapcut.models.adapter import Adapter
from shapcut.support.progress import Reporter, Silent
from shapcut.support.quiet import quiet_libraries


@dataclass(frozen=True, slots=True)
class SpeedQuestion:
    """How to measure generation.

    Attributes:
        prompt_tokens: length of the prompts.
        new_tokens: tokens generated after each prompt.
        repeats: measurements whose median counts; 0: measure no latency.
        batch_size: sequences at a time.
        cache_lengths: tokens after which to measure the size of the cache; empty: do not measure it.
    """

    prompt_tokens: int = 128
    new_tokens: int = 16
    repeats: int = 5
    batch_size: int = 1
    cache_lengths: tuple[int, ...] = ()

    def within(self, max_length: int | None) -> "SpeedQuestion":
        """The same question, shortened to a model that takes at most ``max_length`` tokens."""
        if max_length is None:
            return self
        prompt = min(self.prompt_tokens, max(1, max_length - self.new_tokens - 1))
        lengths = dict.fromkeys(min(length, max_length) for length in self.cache_lengths)
        return replace(self, prompt_tokens=prompt, cache_lengths=tuple(lengths))

    def of_latency(self) -> dict[str, int]:
        """Arguments of `shapcut.measurement.latency.latency`."""
        names = ("prompt_tokens", "new_tokens", "repeats", "batch_size")
        return {name: getattr(self, name) for name in names}


LATENCY = SpeedQuestion(new_tokens=8, repeats=4)
"""Latency of a run's models, no cache; more tokens and repeats vary as much from one minute to the next."""


def measure(
    adapter: Adapter,
    model: nn.Module,
    held_out: Calibration,
    *,
    others: Sequence[Calibration] = (),
    sliding: SlidingWindow | None = None,
    speed: SpeedQuestion = LATENCY,
    tasks: Harness | None = None,
    tokenizer: Any = None,
    writes: bool = False,
    files: Path | None = None,
    seed: int = 0,
    reporter: Reporter | None = None,
) -> ModelMeasurement:
    """Measure the quality, size and speed of a model.

    A figure that cannot be measured is None, with a line in ``notes``: a model whose ``generate`` fails still
    has a perplexity and a size.

    Args:
        adapter: the model's adapter.
        model: canonicalised, in evaluation mode.
        held_out: text for the perplexity, unseen by the selection.
        others: further texts for perplexities.
        sliding: overlapping windows over each text, one long row; None: each of its rows is a window.
        speed: how to measure generation.
        tasks: tasks of lm-evaluation-harness to ask, or None.
        tokenizer: the model's; only ``tasks`` need it.
        writes: whether to record what the model writes; not with ``sliding``.
        files: the directory or file that holds the weights, if it is local.
        seed: of the prompts.
        reporter: told about progress.

    Raises:
        InputError: if the text is too short.
    """
    reporter = reporter or Silent()
    notes = Notes()
    with quiet_libraries():
        quality = _quality(adapter, model, held_out, sliding, reporter)
        elsewhere = tuple(
            TextMeasurement(
                source=text.source,
                fingerprint=text.fingerprint,
                perplexity=_quality(adapter, model, text, sliding, reporter),
            )
            for text in others
        )
        timed = _latency(adapter, model, speed, notes, seed=seed, reporter=reporter)
        caches = _cache_sizes(adapter, model, speed, notes, seed=seed, reporter=reporter)
        write = partial(written, adapter, model, held_out.input_ids, quality.window_means)
        wrote = notes.attempt("no writing", write) if writes else None
    scores = None if tasks is None else tasks.scores(adapter, model, tokenizer, reporter, notes)
    peak = peak_memory_bytes(adapter.input_device(model))
    if peak is None:
        notes.lines.append("no peak memory: this platform does not report it")
    return ModelMeasurement(
        parameters=parameter_count(model),
        weight_bytes=weight_bytes(model),
        checkpoint_bytes=None if files is None else checkpoint_bytes(files),
        peak_memory_bytes=peak,
        perplexity=quality,
        held_out_source=held_out.source,
        held_out_fingerprint=held_out.fingerprint,
        sequence_length=held_out.sequence_length if sliding is None else sliding.window,
        adds_bos=held_out.adds_bos,
        stride=None if sliding is None else sliding.stride,
        latency=timed,
        caches=caches,
        tasks=scores,
        writing=wrote,
        other_texts=elsewhere,
        notes=tuple(notes.lines),
    )


def _latency(
    adapter: Adapter, model: nn.Module, speed: SpeedQuestion, notes: Notes, *, seed: int, reporter: Reporter
) -> LatencyResult | None:
    if not speed.repeats:
        return None
    timing = partial(latency, adapter, model, **speed.of_latency(), seed=seed, reporter=reporter)
    return notes.attempt("no latency", timing)


def _cache_sizes(
    adapter: Adapter, model: nn.Module, speed: SpeedQuestion, notes: Notes, *, seed: int, reporter: Reporter
) -> CacheSizes | None:
    if not speed.cache_lengths:
        return None
    sizing = partial(cache_sizes, adapter, model, speed.cache_lengths, batch_size=speed.batch_size, seed=seed)
    with reporter.working("measuring the cache"):
        return notes.attempt("no cache size", sizing)


def _quality(
    adapter: Adapter,
    model: nn.Module,
    held_out: Calibration,
    sliding: SlidingWindow | None,
    reporter: Reporter,
) -> PerplexityResult:
    if sliding is None:
        return perplexity(adapter, model, held_out.input_ids, reporter=reporter)
    return sliding_perplexity(
        adapter,
        model,
        held_out.input_ids[0].numpy(),
        window=sliding.window,
        stride=sliding.stride,
        bos=sliding.bos,
        reporter=reporter,
    )
