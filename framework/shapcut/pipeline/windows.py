"""Windows of a run's text, for each of its parts."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from shapcut.data.excerpt import calibration_digest
from shapcut.data.mixture import has_own_text, text_shares, with_own_text, without_own_text
from shapcut.data.text import GENERAL
from shapcut.data.windows import (
    Calibration,
    all_windows,
    load_calibration,
    load_held_out,
    windows_by_source,
)
from shapcut.host.open_model import OpenModel
from shapcut.measurement.held_out_text import TextQuestion
from shapcut.models.own_text import own_text
from shapcut.models.source import inspect_source
from shapcut.steps.step import PostProcessor
from shapcut.support.errors import InputError
from shapcut.support.progress import Reporter
from shapcut.valuation.model_game import ModelGame
from shapcut.valuation.utilities import ModelUtility

_FINAL_PARTS = 8
_GENERAL_SHARE = 3
"""Windows of general text for each of another source, for steps that fit text."""


@dataclass(frozen=True, slots=True)
class RunText:
    """The text of a run, cut into windows by the model's tokenizer.

    Attributes:
        source: one source or a mixture, as named by the user.
        tokenizer: the model's tokenizer.
        length: tokens per window.
        seed: seed of the choice of windows.
        own: file of the text that the model has written itself, if the source contains it.
    """

    source: str
    tokenizer: Any
    length: int
    seed: int
    own: Path | None = None

    @staticmethod
    def of(source: str, opened: OpenModel, length: int, seed: int, reporter: Reporter) -> "RunText":
        """The text for a model, which writes its own part now, unless that is in the cache.

        Raises:
            UnsupportedModelError: if the model cannot write.
        """
        own = None
        if has_own_text(source):
            own = own_text(
                opened.model,
                opened.tokenizer,
                opened.adapter,
                seed=seed,
                max_length=inspect_source(opened.source).max_length,
                reporter=reporter,
            )
        return RunText(source, opened.tokenizer, length, seed, own)

    def digest(self) -> str:
        """SHA-256 of the text that steps may read."""
        return calibration_digest(self._readable(self.source))

    def calibration(self, samples: int) -> Calibration:
        """Windows to measure coalitions on."""
        return self._drawn(samples, self.seed)

    def finals(self, samples: int) -> Calibration:
        """Other windows, to compare finalists on."""
        return self._drawn(samples, self.seed + 1)

    def for_step(self, step: PostProcessor, samples: int) -> Calibration:
        """The calibration windows of a step: ``step.samples`` of them, or ``samples`` if that is None."""
        return self.calibration(step.samples or samples)

    def held_out(self, samples: int) -> Calibration:
        """Windows of held-out text, not of the model's own if there is any other."""
        source = without_own_text(self.source)
        found = load_held_out(
            self._readable(source), self.tokenizer, samples=samples, sequence_length=self.length
        )
        return replace(found, source=source)

    def others(self, named: Sequence[str] | None, samples: int) -> tuple[Calibration, ...]:
        """Windows of other texts to judge on, as many of each, see `shapcut.data.mixture.other_texts`."""
        source = without_own_text(self.source)
        return TextQuestion(source, window=self.length, windows=samples, judge_on=named).others(
            self.tokenizer
        )

    def whole(self, length: int) -> Tensor:
        """All windows of ``length`` tokens of the calibration part, shape (windows, length)."""
        return all_windows(self._readable(self.source), self.tokenizer, length)

    def by_source(self, length: int) -> dict[str, Tensor]:
        """The windows of `whole`, apart for each source as named by the user.

        Beside a single source there are up to three times as many windows of `GENERAL`: what transfers from
        one kind of text to another can only be told with two.
        """
        found = windows_by_source(self._readable(self.source), self.tokenizer, length)
        names = [share.source for share in text_shares(self.source)]
        texts = dict(zip(names, found.values(), strict=True))
        if len(texts) > 1 or GENERAL in texts:
            return texts
        general = all_windows(GENERAL, self.tokenizer, length)
        count = min(len(general), _GENERAL_SHARE * len(texts[names[0]]))
        return texts | {GENERAL: general[torch.arange(count) * len(general) // count]}

    def _drawn(self, samples: int, seed: int) -> Calibration:
        found = load_calibration(
            self._readable(self.source),
            self.tokenizer,
            samples=samples,
            sequence_length=self.length,
            seed=seed,
        )
        return replace(found, source=self.source)

    def _readable(self, source: str) -> str:
        return source if self.own is None else with_own_text(source, self.own)


def final_games(text: RunText, samples: int, game: ModelGame, *, required: bool) -> tuple[ModelGame, ...]:
    """The game on further windows, in up to 8 equal parts; a remainder is unused.

    The second half of the parts, which few sets reach, is measured in the model's own number format and on
    the whole vocabulary, because these values decide. The finals are too small to compile kernels for, and
    for a run of the whole model that no value needs.

    Args:
        text: the run's text.
        samples: number of windows in all parts together; 0 for none.
        game: the game on the calibration windows.
        required: whether a text that is too short is an error; otherwise there are no finals.

    Raises:
        InputError: if the text is too short, or ``required`` and the utility reads no text.
    """
    if isinstance(game.utility, ModelUtility) and required and samples:
        raise InputError(f"finalist samples are text, which the utility {game.utility.name!r} does not read")
    if samples == 0 or isinstance(game.utility, ModelUtility):
        return ()
    try:
        windows = text.finals(samples)
    except InputError:
        if required:
            raise
        return ()
    size = max(1, samples // _FINAL_PARTS)
    parts = [part for part in torch.split(windows.input_ids, size) if len(part) == size][:_FINAL_PARTS]
    first, second = parts[: len(parts) // 2], parts[len(parts) // 2 :]
    return tuple(
        [game.on(part, fuse=False, sampled=game.sampled, checks_model=False) for part in first]
        + [game.on(part, dtype=game.own_dtype, fuse=False, checks_model=False) for part in second]
    )
