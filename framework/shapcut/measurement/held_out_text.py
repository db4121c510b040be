"""The text that perplexity is measured on."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from shapcut.data.mixture import check_other_texts, check_source, other_texts
from shapcut.data.windows import Calibration, adds_bos, check_size, held_out_tokens, load_held_out
from shapcut.measurement.perplexity import SlidingWindow
from shapcut.support.errors import InputError


@dataclass(frozen=True, slots=True)
class TextQuestion:
    """Which text to measure perplexity on, and how to read it.

    Attributes:
        source: ``builtin``, a file or a data set of the hub.
        whole: use all of it, not only the quarter held out from calibration.
        window: tokens read at a time, a BOS token included.
        windows: number of windows; None: all.
        stride: tokens by which overlapping windows move on; None: each window is read on its own.
        judge_on: other texts, see `shapcut.data.mixture.other_texts`; None beside a whole text: no other.
    """

    source: str
    whole: bool = False
    window: int = 128
    windows: int | None = 32
    stride: int | None = None
    judge_on: Sequence[str] | None = None

    def check_texts(self) -> None:
        """Refuse texts that cannot be read, before a model is loaded.

        Raises:
            InputError: with the reason.
        """
        check_source(self.source)
        check_other_texts(self.judge_on)

    def check(self, max_length: int | None) -> None:
        """Refuse impossible sizes, before a model is loaded.

        Raises:
            InputError: with the value.
        """
        check_size(1, self.window, max_length)
        if self.stride is not None and not 1 <= self.stride <= self.window:
            raise InputError(f"--stride {self.stride} must be between 1 and {self.window}, the window")

    def read(self, tokenizer: Any) -> tuple[Calibration, SlidingWindow | None]:
        """Tokenize the text.

        Returns:
            Windows and None; with a stride, the text as one long row and how to slide over it.

        Raises:
            InputError: if the text is too short.
        """
        if self.stride is None:
            read = load_held_out(
                self.source, tokenizer, samples=self.windows, sequence_length=self.window, whole=self.whole
            )
            return read, None
        at_most = None if self.windows is None else self.windows * self.window
        tokens = held_out_tokens(self.source, tokenizer, whole=self.whole, at_most=at_most)
        read = Calibration(torch.from_numpy(tokens)[None], self.source, adds_bos(tokenizer))
        bos = tokenizer.bos_token_id if read.adds_bos else None
        return read, SlidingWindow(self.window, self.stride, bos)

    def others(self, tokenizer: Any) -> tuple[Calibration, ...]:
        """Tokenize the held-out quarters of the other texts, as `read` does the text.

        Raises:
            InputError: if a text that was named is too short; others are left out.
        """
        if self.whole and self.judge_on is None:
            return ()
        found = []
        for source in other_texts(self.judge_on, self.source):
            try:
                found.append(replace(self, source=source, whole=False).read(tokenizer)[0])
            except InputError as error:
                if self.judge_on is not None:
                    raise InputError(f"--judge-on: {error}") from error
        return tuple(found)
