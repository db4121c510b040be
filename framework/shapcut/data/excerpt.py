"""Excerpts of texts: of a large text only as much is read as is needed."""

import hashlib
import io
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import BinaryIO, Literal

from shapcut.data.mixture import text_shares
from shapcut.data.text import (
    HELD_OUT_SHARE,
    HUB_PREFIX,
    WHOLE_BYTES,
    decoded,
    is_large_file,
    opened_text,
    read_source,
    split_text,
)
from shapcut.support.errors import InputError

Part = Literal["calibration", "held-out", "all"]

MOST_BYTES = 8 * 2**20
"""Of a large text, for those who would take all of it."""

_SPREAD_PIECES = 16
_PIECE_BYTES = 2**16
_BOUNDARY_BYTES = 2**12
_LONGEST_LINE = 2**24
_CONTINUATION = range(0x80, 0xC0)
"""Bytes that continue a character of UTF-8."""


@dataclass(frozen=True, slots=True)
class Excerpt:
    """Pieces of a part of a text.

    Attributes:
        pieces: in order; they do not overlap and are tokenized one by one.
        complete: whether they are the whole part.
    """

    pieces: tuple[str, ...]
    complete: bool


def read_excerpt(source: str, part: Part, at_least: int | None, *, spread: bool = True) -> Excerpt:
    """An excerpt of a part of a source.

    A text of up to `WHOLE_BYTES` is one piece. Of a larger one, 16 evenly spread pieces are read, each
    from one line to another.

    Args:
        source: ``builtin``, the path of a ``.txt`` or ``.jsonl`` file, or ``hf:NAME``.
        part: the first three quarters, the last quarter or all of it.
        at_least: number of bytes wanted; None reads the whole part.
        spread: whether pieces are spread over the part instead of taken from its beginning.

    Raises:
        InputError: if the source cannot be read.
    """
    if is_large_file(source):
        with opened_text(source) as file:
            return _LargeText(source, file, Path(source).stat().st_size).excerpt(part, at_least, spread)
    text = read_source(source)
    if len(text) > WHOLE_BYTES:
        content = text.encode()
        with closing(io.BytesIO(content)) as buffer:
            return _LargeText(source, buffer, len(content)).excerpt(part, at_least, spread)
    if part == "all":
        return Excerpt((text,), complete=True)
    calibration, held_out = split_text(text)
    return Excerpt((calibration if part == "calibration" else held_out,), complete=True)


def calibration_digest(source: str) -> str:
    """SHA-256 of the text that steps may read: the calibration part, of a large file its excerpt.

    A data set of the hub is not read again; its name stands for it.
    """
    shares = text_shares(source)
    if len(shares) > 1:
        each = [f"{share.weight:g} {calibration_digest(share.source)}" for share in shares]
        return hashlib.sha256("\0".join(each).encode()).hexdigest()
    if source.startswith(HUB_PREFIX):
        return source
    pieces = read_excerpt(source, "calibration", MOST_BYTES).pieces
    return hashlib.sha256("\0".join(pieces).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class _LargeText:
    """A text that is read in pieces."""

    source: str
    file: BinaryIO
    size: int

    def excerpt(self, part: Part, at_least: int | None, spread: bool) -> Excerpt:
        """See `read_excerpt`."""
        begin, end = self._bounds(part)
        complete = at_least is None or at_least >= end - begin
        if complete or not spread:
            wanted = end - begin if complete or at_least is None else at_least
            starts = range(begin, begin + wanted, _PIECE_BYTES)
            spans = [(start, min(start + _PIECE_BYTES, begin + wanted)) for start in starts]
        else:
            each = -(-(at_least or 0) // _SPREAD_PIECES)
            gap = (end - begin - each) // (_SPREAD_PIECES - 1)
            spans = [(begin + n * gap, begin + n * gap + each) for n in range(_SPREAD_PIECES)]
        return Excerpt(tuple(self._pieces(spans)), complete)

    def _bounds(self, part: Part) -> tuple[int, int]:
        cut = int(self.size * (1 - HELD_OUT_SHARE))
        return {"all": (0, self.size), "calibration": (0, cut), "held-out": (cut, self.size)}[part]

    def _pieces(self, spans: list[tuple[int, int]]) -> Iterator[str]:
        for start, end in spans:
            begin, length = self._boundary(start), self._boundary(end) - self._boundary(start)
            self.file.seek(begin)
            content = self.file.read(max(0, length))
            if content:
                yield decoded(self.source, content, begin)

    def _boundary(self, position: int) -> int:
        """Where a piece may begin: the next line, else the next word, else the next character."""
        if position <= 0 or position >= self.size:
            return position
        self.file.seek(position - 1)
        if self.source.endswith(".jsonl"):
            line = self.file.readline(_LONGEST_LINE)
            if len(line) == _LONGEST_LINE:
                raise InputError(
                    f"{self.source}, byte {position}: a line is longer than {_LONGEST_LINE} bytes; split it"
                )
            return position - 1 + len(line)
        near = self.file.read(_BOUNDARY_BYTES)
        for mark in (b"\n", b" "):
            if mark in near:
                return position + near.index(mark)
        return position + len(list(takewhile(_CONTINUATION.__contains__, near[1:4])))
