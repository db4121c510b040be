"""Windows of tokens from calibration text and from held-out text."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from shapcut.data.excerpt import MOST_BYTES, Excerpt, Part, read_excerpt
from shapcut.data.mixture import (
    TextShare,
    apportioned,
    check_source,
    interleaved,
    proportional,
    text_shares,
)
from shapcut.data.text import HELD_OUT_SHARE, split_text
from shapcut.support.errors import InputError
from shapcut.support.quiet import quiet_libraries

__all__ = [
    "Calibration",
    "adds_bos",
    "all_windows",
    "check_size",
    "check_source",
    "first_windows",
    "held_out_tokens",
    "load_calibration",
    "load_held_out",
    "split_text",
    "token_windows",
    "windows_by_source",
]

_MIN_LENGTH = 2
_EXCERPT_BYTES = 2**20
_BYTES_PER_TOKEN = 4
_NO_TOKENS = np.empty(0, dtype=np.int64)
_SHARE: dict[Part, float] = {"all": 1.0, "calibration": 1 - HELD_OUT_SHARE, "held-out": HELD_OUT_SHARE}


@dataclass(frozen=True, eq=False, slots=True)
class Calibration:
    """Windows of tokens with their source.

    Attributes:
        input_ids: int64, shape (samples, sequence_length); windows do not overlap.
        source: as named by the user.
        adds_bos: whether each window begins with the tokenizer's BOS token.
        fingerprint: SHA-256 of shape and ids, hexadecimal.
    """

    input_ids: Tensor
    source: str
    adds_bos: bool
    fingerprint: str = field(init=False)

    def __post_init__(self) -> None:
        ids = self.input_ids.numpy().astype("<i8")
        digest = hashlib.sha256(repr(ids.shape).encode() + ids.tobytes())
        object.__setattr__(self, "fingerprint", digest.hexdigest())

    @property
    def samples(self) -> int:
        """Number of windows."""
        return self.input_ids.shape[0]

    @property
    def sequence_length(self) -> int:
        """Tokens per window, the BOS token included."""
        return self.input_ids.shape[1]

    @property
    def n_tokens(self) -> int:
        """Tokens in all windows."""
        return self.input_ids.numel()


def load_calibration(
    source: str,
    tokenizer: Any,
    *,
    samples: int = 16,
    sequence_length: int = 128,
    seed: int = 0,
    max_length: int | None = None,
) -> Calibration:
    """Randomly chosen windows of the calibration part of a source.

    Args:
        source: ``builtin``, the path of a ``.txt`` or ``.jsonl`` file, ``hf:NAME[:CONFIG]``, or a mixture of
            them, see `text_shares`.
        tokenizer: the model's tokenizer.
        samples: number of windows.
        sequence_length: tokens per window, a BOS token included.
        seed: of the choice of windows.
        max_length: longest sequence the model takes, or None if unlimited.

    Raises:
        InputError: if the source is unreadable or too short, or a size is impossible.
    """
    check_size(samples, sequence_length, max_length)

    def drawn(one: str, wanted: int) -> Tensor:
        tokens = _tokens(one, tokenizer, "calibration", wanted * sequence_length)
        name = f"the calibration part of {one}"
        return _chosen_windows(tokenizer, tokens, wanted, sequence_length, seed, name=name)

    return Calibration(_mixed(source, samples, drawn), source, adds_bos(tokenizer))


def first_windows(source: str, tokenizer: Any, *, samples: int, sequence_length: int) -> Calibration:
    """The first windows of a whole source.

    Raises:
        InputError: as `load_calibration`.
    """
    check_size(samples, sequence_length)

    def first(one: str, wanted: int) -> Tensor:
        tokens = _tokens(one, tokenizer, "all", wanted * sequence_length, spread=False)
        return _chosen_windows(tokenizer, tokens, wanted, sequence_length, None, name=one)

    return Calibration(_mixed(source, samples, first), source, adds_bos(tokenizer))


def all_windows(source: str, tokenizer: Any, sequence_length: int) -> Tensor:
    """The windows of the calibration part of a source, in order, from at most 8 MiB of text.

    Of a mixture, as many as its shares allow.

    Returns:
        int64, shape (windows, sequence_length).

    Raises:
        InputError: if the source is unreadable or has no window.
    """
    check_size(1, sequence_length)
    return _all_mixed(source, lambda one: _every_window(one, tokenizer, sequence_length))


def windows_by_source(source: str, tokenizer: Any, sequence_length: int) -> dict[str, Tensor]:
    """The windows of `all_windows`, in order, apart for each source of a mixture.

    Raises:
        InputError: as `all_windows`.
    """
    check_size(1, sequence_length)
    shares = text_shares(source)
    parts = _proportional_parts(shares, lambda one: _every_window(one, tokenizer, sequence_length))
    return {share.source: part for share, part in zip(shares, parts, strict=True)}


def load_held_out(
    source: str,
    tokenizer: Any,
    *,
    samples: int | None,
    sequence_length: int,
    max_length: int | None = None,
    whole: bool = False,
) -> Calibration:
    """Evenly spread windows of the held-out part of a source, which `load_calibration` never uses.

    Args:
        source: as for `load_calibration`.
        tokenizer: the model's tokenizer.
        samples: number of windows; None: all.
        sequence_length: tokens per window, a BOS token included.
        max_length: longest sequence the model takes, or None if unlimited.
        whole: take the windows from all of the source instead.

    Raises:
        InputError: as `load_calibration`.
    """
    check_size(1 if samples is None else samples, sequence_length, max_length)
    bos = _bos(tokenizer)

    def spread(one: str, wanted: int | None = None) -> Tensor:
        needed = None if wanted is None else wanted * sequence_length
        tokens = _tokens(one, tokenizer, "all" if whole else "held-out", needed)
        name = one if whole else f"the held-out quarter of {one}"
        available = _available(tokens, wanted or 1, sequence_length, bos, name, option="--held-out-samples")
        chosen = _spread(available, available if wanted is None else wanted)
        return _cut(tokens, chosen, sequence_length, bos)

    windows = _all_mixed(source, spread) if samples is None else _mixed(source, samples, spread)
    return Calibration(windows, source, bos is not None)


def held_out_tokens(
    source: str, tokenizer: Any, *, whole: bool = False, at_most: int | None = None
) -> NDArray[np.int64]:
    """The tokens of the held-out part (or all) of a source as one sequence, without special tokens.

    Args:
        source: as for `load_calibration`.
        tokenizer: the model's tokenizer.
        whole: take the tokens from all of the source instead.
        at_most: number of tokens wanted, from the beginning; None: all.

    Returns:
        Shape (n_tokens,). Of a mixture, the tokens of one source after another, each by its share of
        ``at_most``.

    Raises:
        InputError: if the source is unreadable.
    """
    part: Part = "all" if whole else "held-out"
    shares = text_shares(source)
    wanted = [None] * len(shares) if at_most is None else apportioned(at_most, shares)
    return np.concatenate(
        [
            _tokens(share.source, tokenizer, part, most, spread=False)[:most]
            for share, most in zip(shares, wanted, strict=True)
        ]
    )


def token_windows(
    tokenizer: Any, text: str, samples: int, length: int, seed: int | None, *, name: str = "the text"
) -> Tensor:
    """Disjoint windows of a text's tokens, in order.

    Args:
        tokenizer: called like a transformers tokenizer; every window begins with its BOS token if and only
            if the tokenizer itself prepends one.
        text: source of the windows.
        samples: number of windows.
        length: tokens per window, a BOS token included.
        seed: of the random choice of windows; None: the first ones.
        name: of the text, in messages.

    Returns:
        int64, shape (samples, length).

    Raises:
        InputError: if the text is too short, with the number of tokens needed and found.
    """
    check_size(samples, length)
    return _chosen_windows(tokenizer, _tokenize(tokenizer, text), samples, length, seed, name=name)


def _mixed(source: str, samples: int, windows_of: Callable[[str, int], Tensor]) -> Tensor:
    """Windows of each source of a mixture by its share, interleaved."""
    shares = text_shares(source)
    wanted = zip(shares, apportioned(samples, shares), strict=True)
    return _interleaved([windows_of(share.source, n) for share, n in wanted if n])


def _all_mixed(source: str, windows_of: Callable[[str], Tensor]) -> Tensor:
    """As many windows as the shares of a mixture allow, interleaved."""
    return _interleaved(_proportional_parts(text_shares(source), windows_of))


def _proportional_parts(shares: Sequence[TextShare], windows_of: Callable[[str], Tensor]) -> list[Tensor]:
    """As many windows of each source as the shares allow."""
    parts = [windows_of(share.source) for share in shares]
    kept = proportional([len(part) for part in parts], shares)
    return [part[_spread(len(part), n)] for part, n in zip(parts, kept, strict=True)]


def _every_window(source: str, tokenizer: Any, length: int) -> Tensor:
    """All windows of the calibration part of one source."""
    bos = _bos(tokenizer)
    tokens = _tokenize_all(tokenizer, read_excerpt(source, "calibration", MOST_BYTES))
    available = _available(tokens, 1, length, bos, f"the calibration part of {source}")
    return _cut(tokens, np.arange(available), length, bos)


def _interleaved(parts: Sequence[Tensor]) -> Tensor:
    return torch.cat(list(parts))[torch.from_numpy(interleaved([len(part) for part in parts]))]


def _spread(available: int, wanted: int) -> NDArray[np.int64]:
    """Evenly spread places."""
    places: NDArray[np.int64] = np.arange(wanted, dtype=np.int64) * available // wanted
    return places


def _chosen_windows(
    tokenizer: Any, tokens: NDArray[np.int64], samples: int, length: int, seed: int | None, *, name: str
) -> Tensor:
    """Windows of these tokens; see `token_windows`."""
    bos = _bos(tokenizer)
    available = _available(tokens, samples, length, bos, name)
    chosen: NDArray[np.int64] = np.arange(samples, dtype=np.int64)
    if seed is not None:
        chosen = np.sort(np.random.default_rng(seed).choice(available, samples, replace=False))
    return _cut(tokens, chosen, length, bos)


def check_size(samples: int, sequence_length: int, max_length: int | None = None) -> None:
    """Refuse impossible sizes; needs neither model nor text.

    Raises:
        InputError: with the value.
    """
    if samples < 1:
        raise InputError(f"--samples {samples} is too small; at least 1 is needed")
    if sequence_length < _MIN_LENGTH:
        raise InputError(
            f"--sequence-length {sequence_length} is too small; at least {_MIN_LENGTH} tokens are needed"
        )
    if max_length is not None and sequence_length > max_length:
        raise InputError(
            f"--sequence-length {sequence_length} is more than the {max_length} tokens that the model takes"
        )


def adds_bos(tokenizer: Any) -> bool:
    """Whether the tokenizer itself prepends its BOS token."""
    return _bos(tokenizer) is not None


def _bos(tokenizer: Any) -> int | None:
    bos: int | None = getattr(tokenizer, "bos_token_id", None)
    ids = list(tokenizer("x")["input_ids"])
    return bos if bos is not None and ids[:1] == [bos] else None


def _tokens(
    source: str, tokenizer: Any, part: Part, needed: int | None, *, spread: bool = True
) -> NDArray[np.int64]:
    """Tokens of a part of a source: at least ``needed`` ones if it has as many; None: all of them."""
    wanted = None if needed is None else max(int(_EXCERPT_BYTES * _SHARE[part]), _BYTES_PER_TOKEN * needed)
    while True:
        excerpt = read_excerpt(source, part, wanted, spread=spread)
        tokens = _tokenize_all(tokenizer, excerpt)
        if excerpt.complete or wanted is None or needed is None or len(tokens) >= needed:
            return tokens
        wanted *= 4


def _tokenize_all(tokenizer: Any, excerpt: Excerpt) -> NDArray[np.int64]:
    return np.concatenate([_NO_TOKENS, *(_tokenize(tokenizer, piece) for piece in excerpt.pieces)])


def _tokenize(tokenizer: Any, text: str) -> NDArray[np.int64]:
    # Silences the warning about texts longer than the model's context: they are cut into windows.
    with quiet_libraries():
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    return np.asarray(ids, dtype=np.int64)


def _available(
    tokens: NDArray[np.int64],
    samples: int,
    length: int,
    bos: int | None,
    name: str,
    *,
    option: str = "--samples",
) -> int:
    """The number of available windows; refuses too few, with the option that lowers ``samples``."""
    width = length - (bos is not None)
    if len(tokens) < samples * width:
        raise InputError(
            f"{name} is too short: {samples} samples of {length} tokens need {samples * width} tokens, "
            f"it has {len(tokens)}; give a longer text, or lower {option} or --sequence-length"
        )
    return len(tokens) // width


def _cut(tokens: NDArray[np.int64], chosen: NDArray[np.int64], length: int, bos: int | None) -> Tensor:
    width = length - (bos is not None)
    windows = tokens[chosen[:, None] * width + np.arange(width)]
    if bos is not None:
        windows = np.concatenate([np.full((len(windows), 1), bos, dtype=np.int64), windows], axis=1)
    return torch.from_numpy(windows)
