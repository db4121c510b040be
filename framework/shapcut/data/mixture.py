"""Mixtures of texts: several sources, each with its share of the windows."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from shapcut.data.text import BUILT_IN_NAMES, SELF, check_text
from shapcut.support.errors import InputError

SEPARATOR = "+"
NONE = "none"
"""In place of other texts: no other text."""

_MOST_SOURCES = 16
_WEIGHT = re.compile(r"(?P<source>.+):(?P<weight>\d+(\.\d+)?)")


@dataclass(frozen=True, slots=True)
class TextShare:
    """One source of a mixture.

    Attributes:
        source: ``builtin``, ``self``, the path of a file, or ``hf:NAME[:CONFIG[:SPLIT]]``.
        weight: its share of the windows, relative to the other sources.
    """

    source: str
    weight: float = 1.0


def text_shares(source: str) -> tuple[TextShare, ...]:
    """The sources of a text.

    Args:
        source: a single source, or several joined by ``+``, each of which may end in ``:WEIGHT``. The name of
            an existing file is a single source.

    Raises:
        InputError: if a source is empty or named twice, or a weight is 0.
    """
    if SEPARATOR not in source or Path(source).exists():
        return (TextShare(source),)
    shares = tuple(_share(part.strip(), source) for part in source.split(SEPARATOR))
    names = [share.source for share in shares]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise InputError(f"the text {source!r} names {twice} twice; give it one weight")
    if len(shares) > _MOST_SOURCES:
        raise InputError(
            f"the text {source!r} has {len(shares)} sources; at most {_MOST_SOURCES} can be mixed"
        )
    return shares


def has_own_text(source: str) -> bool:
    """Whether a text contains what the model writes itself."""
    return any(share.source == SELF for share in text_shares(source))


def with_own_text(source: str, file: Path) -> str:
    """A text with the file of what the model has written in the place of ``self``.

    Raises:
        InputError: if the file's name cannot stand in a mixture.
    """
    shares = text_shares(source)
    if len(shares) > 1 and SEPARATOR in str(file):
        raise InputError(f"the cache folder {file.parent} has a {SEPARATOR} in its name; set SHAPCUT_CACHE")
    return joined([TextShare(str(file), s.weight) if s.source == SELF else s for s in shares])


def without_own_text(source: str) -> str:
    """A text without what the model writes itself, unless there is nothing else."""
    shares = text_shares(source)
    return joined([share for share in shares if share.source != SELF] or shares)


def joined(shares: Sequence[TextShare]) -> str:
    """The name of a mixture; of a single source its own."""
    if len(shares) == 1:
        return shares[0].source
    return SEPARATOR.join(f"{share.source}:{share.weight:g}" for share in shares)


def check_source(source: str, *, own: bool = False) -> None:
    """Refuse a text that cannot be read, without a tokenizer and without the network.

    Args:
        source: a source or a mixture, see `text_shares`.
        own: whether it may contain the model's own text, ``self``.

    Raises:
        InputError: with the reason.
    """
    for share in text_shares(source):
        if not (own and share.source == SELF):
            check_text(share.source)


def identity(source: str) -> str | Path:
    """What two names of one text have in common."""
    return Path(source).resolve() if Path(source).exists() else source


def other_texts(named: Sequence[str] | None, judged: str) -> tuple[str, ...]:
    """The texts to judge a model on besides one text.

    Args:
        named: by the user, or ``none`` alone for no other text; None: the sources of ``judged`` one by one if
            it is a mixture, and the built-in texts, which are of another kind than most.
        judged: the text on which the model is judged anyway, a source or a mixture; it is left out.
    """
    if named is not None:
        found = [] if list(named) == [NONE] else list(named)
    else:
        found = [share.source for share in text_shares(judged) if share.source != SELF]
        found += BUILT_IN_NAMES
    by_identity: dict[str | Path, str] = {}
    for source in found:
        by_identity.setdefault(identity(source), source)
    by_identity.pop(identity(judged), None)
    return tuple(by_identity.values())


def check_other_texts(named: Sequence[str] | None) -> None:
    """Refuse other texts that cannot be read, without a tokenizer and without the network.

    Raises:
        InputError: with the reason.
    """
    for source in named or ():
        if source == NONE and len(named or ()) > 1:
            raise InputError(f"--judge-on {NONE} stands alone; leave it out to name other texts")
        if source != NONE:
            try:
                check_source(source)
            except InputError as error:
                raise InputError(f"--judge-on: {error}") from error


def apportioned(total: int, shares: Sequence[TextShare]) -> list[int]:
    """Parts of a number of windows in proportion to the weights, at least one each if there are enough.

    Largest remainders; earlier sources win ties.
    """
    weights = np.array([share.weight for share in shares])
    exact = weights / weights.sum() * total
    parts = np.floor(exact).astype(np.int64)
    order = np.argsort(-(exact - parts), kind="stable")
    parts[order[: total - int(parts.sum())]] += 1
    while total >= len(parts) and parts.min() == 0:
        parts[int(parts.argmax())] -= 1
        parts[int(parts.argmin())] += 1
    return [int(part) for part in parts]


def proportional(available: Sequence[int], shares: Sequence[TextShare]) -> list[int]:
    """The largest numbers of windows in proportion to the weights, of those that are available."""
    weights = np.array([share.weight for share in shares])
    most = float((np.array(available) / weights).min())
    return [min(n, max(1, int(most * weight + 1e-9))) for n, weight in zip(available, weights, strict=True)]


def interleaved(counts: Sequence[int]) -> NDArray[np.int64]:
    """An order of windows that are grouped by source, such that each run of it has every source's share.

    Args:
        counts: number of windows of each source.
    """
    places = np.concatenate([(np.arange(count) + 0.5) / max(1, count) for count in counts])
    return np.argsort(places, kind="stable")


def _share(part: str, whole: str) -> TextShare:
    found = _WEIGHT.fullmatch(part)
    share = TextShare(found["source"], float(found["weight"])) if found else TextShare(part)
    if not share.source:
        raise InputError(
            f"the text {whole!r} has an empty source; write SOURCE or SOURCE:WEIGHT, joined by +"
        )
    if share.weight <= 0.0:
        raise InputError(f"the text {whole!r} gives {share.source} the weight 0; leave it out")
    return share
