"""All that is measured of a model that is ready to be used; what cannot be had of it is said in a line."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from shapcut.data.windows import Calibration, adds_bos, check_size, held_out_tokens, load_held_out
from shapcut.measurement.cache_size import cache_sizes
from shapcut.measurement.latency import latency
from shapcut.measurement.perplexity import PerplexityResult, perplexity, sliding_perplexity
from shapcut.measurement.record import ModelMeasurement
from shapcut.measurement.sizes import checkpoint_bytes, parameter_count, peak_memory_bytes, weight_bytes
from shapcut.models.adapter import Adapter
from shapcut.support.errors import InputError, ShapcutError
from shapcut.support.progress import Reporter
from shapcut.support.quiet import one_line, quiet_libraries

_LOG = logging.getLogger(__name__)
_OF_LIBRARIES = (ShapcutError, RuntimeError, ValueError, TypeError, AttributeError, LookupError)
"""What a library may raise that was not made for a question, not being ours to look into."""

ResultT = TypeVar("ResultT")


@dataclass(frozen=True, slots=True)
class TextQuestion:
    """The text that perplexity is measured on, and how it is read.

    Attributes:
        source: ``builtin``, a file or a data set of the hub.
        whole: whether all of it counts, and not only the quarter that is held out from calibration.
        window: tokens that the model reads at a time, a BOS token included.
        windows: how many windows of text there are; None: all.
        stride: tokens by which overlapping windows move on; None: each window is read on its own.
    """

    source: str
    whole: bool = False
    window: int = 128
    windows: int | None = 32
    stride: int | None = None

    def check(self, max_length: int | None) -> None:
        """Refuse sizes that make no sense, before a model is loaded.

        Raises:
            InputError: with the value.
        """
        check_size(1, self.window, max_length)
        if self.stride is not None and not 1 <= self.stride <= self.window:
            raise InputError(f"--stride {self.stride} must be between 1 and {self.window}, the window")


@dataclass(frozen=True, slots=True)
class SpeedQuestion:
    """How generation is measured.

    Attributes:
        prompt_tokens: length of the prompts.
        new_tokens: tokens made after each.
        repeats: measurements, of which the median counts; 0: none.
        batch_size: sequences at a time.
        cache_lengths: tokens after which the size of what is remembered is measured.
    """

    prompt_tokens: int = 128
    new_tokens: int = 16
    repeats: int = 5
    batch_size: int = 1
    cache_lengths: tuple[int, ...] = (128, 512)

    def within(self, max_length: int | None) -> "SpeedQuestion":
        """The same in a model that takes so many tokens at most."""
        if max_length is None:
            return self
        prompt = min(self.prompt_tokens, max(1, max_length - self.new_tokens - 1))
        lengths = dict.fromkeys(min(length, max_length) for length in self.cache_lengths)
        return SpeedQuestion(prompt, self.new_tokens, self.repeats, self.batch_size, tuple(lengths))

    def of_latency(self) -> dict[str, int]:
        """Arguments of `shapcut.measurement.latency.latency`."""
        names = ("prompt_tokens", "new_tokens", "repeats", "batch_size")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True, slots=True)
class Assessment:
    """What was measured, and what could not be.

    Attributes:
        measurement: the figures.
        notes: a line for each that there is none of.
    """

    measurement: ModelMeasurement
    notes: tuple[str, ...]


def assess(
    adapter: Adapter,
    model: nn.Module,
    tokenizer: Any,
    *,
    text: TextQuestion,
    speed: SpeedQuestion,
    files: Path | None,
    seed: int,
    reporter: Reporter,
) -> Assessment:
    """All figures of one model.

    Args:
        adapter: the model's adapter.
        model: canonicalised, in evaluation mode.
        tokenizer: the model's.
        text: what perplexity is measured on.
        speed: how generation is measured.
        files: where the weights were read from, if that is here.
        seed: of prompts.
        reporter: told how far it is.

    Raises:
        InputError: if the text is too short.
    """
    notes: list[str] = []
    with quiet_libraries():
        quality, read = _quality(adapter, model, tokenizer, text, reporter)
        timed, caches = None, None
        if speed.repeats:
            timing = partial(latency, adapter, model, **speed.of_latency(), seed=seed, reporter=reporter)
            timed = _told("no latency", timing, notes)
        if speed.cache_lengths:
            with reporter.working("measuring the cache"):
                batch, lengths = speed.batch_size, speed.cache_lengths
                sizing = partial(cache_sizes, adapter, model, lengths, batch_size=batch, seed=seed)
                caches = _told("no size of a cache", sizing, notes)
    if files is None:
        notes.append("no size of the checkpoint: its files are not here")
    peak = peak_memory_bytes(adapter.input_device(model))
    if peak is None:
        notes.append("no peak of memory: this platform does not tell it")
    return Assessment(
        ModelMeasurement(
            parameters=parameter_count(model),
            weight_bytes=weight_bytes(model),
            checkpoint_bytes=None if files is None else checkpoint_bytes(files),
            peak_memory_bytes=peak,
            perplexity=quality,
            held_out_source=read.source,
            held_out_fingerprint=read.fingerprint,
            sequence_length=text.window,
            adds_bos=read.adds_bos,
            stride=text.stride,
            latency=timed,
            caches=caches,
        ),
        tuple(notes),
    )


def _quality(
    adapter: Adapter, model: nn.Module, tokenizer: Any, text: TextQuestion, reporter: Reporter
) -> tuple[PerplexityResult, Calibration]:
    """The perplexity, and what was read: windows, or one long sequence as the only row."""
    if text.stride is None:
        read = load_held_out(
            text.source, tokenizer, samples=text.windows, sequence_length=text.window, whole=text.whole
        )
        return perplexity(adapter, model, read.input_ids, reporter=reporter), read
    tokens = held_out_tokens(text.source, tokenizer, whole=text.whole)
    if text.windows is not None:
        tokens = tokens[: text.windows * text.window]
    read = Calibration(torch.from_numpy(tokens)[None], text.source, adds_bos(tokenizer))
    result = sliding_perplexity(
        adapter,
        model,
        tokens,
        window=text.window,
        stride=text.stride,
        bos=tokenizer.bos_token_id if read.adds_bos else None,
        reporter=reporter,
    )
    return result, read


def _told(what: str, ask: Callable[[], ResultT], notes: list[str]) -> ResultT | None:
    """An answer, or a line on why there is none."""
    try:
        return ask()
    except _OF_LIBRARIES as error:
        _LOG.debug("%s: %s: %s", what, type(error).__name__, error)
        notes.append(f"{what}: {one_line(error)}")
    return None


def measure(
    adapter: Adapter,
    model: nn.Module,
    held_out: Calibration,
    *,
    batch_size: int = 8,
    files: Path | None = None,
    with_latency: bool = True,
    seed: int = 0,
    reporter: Reporter | None = None,
) -> ModelMeasurement:
    """Quality, size and speed of a model.

    Args:
        adapter: the model's adapter.
        model: in evaluation mode.
        held_out: text that nothing was chosen on.
        batch_size: windows a forward pass.
        files: the directory or file that the model was read from or written to.
        with_latency: whether to measure latency too.
        seed: of the prompt for the latency.
        reporter: told how far it is.
    """
    return ModelMeasurement(
        parameters=parameter_count(model),
        weight_bytes=weight_bytes(model),
        checkpoint_bytes=None if files is None else checkpoint_bytes(files),
        perplexity=perplexity(adapter, model, held_out.input_ids, batch_size=batch_size, reporter=reporter),
        held_out_source=held_out.source,
        held_out_fingerprint=held_out.fingerprint,
        sequence_length=held_out.sequence_length,
        adds_bos=held_out.adds_bos,
        latency=latency(adapter, model, seed=seed, reporter=reporter) if with_latency else None,
        peak_memory_bytes=peak_memory_bytes(adapter.input_device(model)),
    )
