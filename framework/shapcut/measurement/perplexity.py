"""Perplexity over windows of text."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn
from torch.nn import functional

from shapcut.game.interval import Interval, Ratio, mean_interval
from shapcut.models.adapter import Adapter
from shapcut.models.layer_stack import Unembedding
from shapcut.support.errors import InputError
from shapcut.support.progress import Reporter, Silent
from shapcut.valuation.readout import losses_in_blocks

TOKEN_BLOCK = 1024
"""Tokens whose logits are converted to fp32 at a time."""

LARGE_VOCABULARY = 2**16
"""Tokens from which on logits are computed for a block of the vocabulary at a time."""

_READING = "reading windows of text"
_IGNORED = -100
_MIN_TOKENS = 2  # one to read, one to predict


class PerplexityResult(BaseModel):
    """Perplexity and loss on a text.

    Attributes:
        perplexity: exp of the loss; infinite or NaN if the loss is.
        nats_per_token: mean next-token loss over the predicted tokens.
        n_tokens: number of predicted tokens.
        window_nats: loss summed over the predicted tokens of each window.
        window_tokens: number of predicted tokens of each window.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")

    perplexity: float
    nats_per_token: float
    n_tokens: int
    window_nats: tuple[float, ...] = ()
    window_tokens: tuple[int, ...] = ()

    @property
    def finite(self) -> bool:
        """Whether the perplexity is finite."""
        return math.isfinite(self.perplexity)

    @property
    def interval(self) -> Interval | None:
        """The 95 % interval of the perplexity: a t interval of the loss over windows."""
        found = mean_interval(self.window_means, self.window_tokens)
        return None if found is None else found.exp()

    def ratio_to(self, other: "PerplexityResult") -> Ratio | None:
        """This perplexity over another on the same windows, with a t interval over paired windows."""
        nats = self.nats_per_token - other.nats_per_token
        if not math.isfinite(nats):
            return None
        interval = None
        if self.window_tokens == other.window_tokens:
            pairs = zip(self.window_means, other.window_means, strict=True)
            interval = mean_interval([one - two for one, two in pairs], self.window_tokens)
        return Ratio(_exp(nats), None if interval is None else interval.exp())

    @property
    def window_means(self) -> list[float]:
        """Mean loss over the predicted tokens of each window."""
        return [nats / n for nats, n in zip(self.window_nats, self.window_tokens, strict=True)]

    @classmethod
    def of(cls, window_nats: Sequence[float], window_tokens: Sequence[int]) -> "PerplexityResult":
        """The result for the losses of windows, each summed over its predicted tokens."""
        n_tokens = sum(window_tokens)
        nats = sum(window_nats) / n_tokens
        return cls(
            perplexity=_exp(nats),
            nats_per_token=nats,
            n_tokens=n_tokens,
            window_nats=tuple(window_nats),
            window_tokens=tuple(window_tokens),
        )


@dataclass(frozen=True, slots=True)
class SlidingWindow:
    """Overlapping windows over one long text.

    Attributes:
        window: tokens read at a time, a BOS token included.
        stride: tokens by which the window moves on.
        bos: token id at the start of every window, or None.
    """

    window: int
    stride: int
    bos: int | None = None


def perplexity(
    adapter: Adapter,
    model: nn.Module,
    input_ids: Tensor,
    *,
    batch_size: int = 8,
    reporter: Reporter | None = None,
) -> PerplexityResult:
    """Perplexity over independent windows.

    Args:
        adapter: the model's adapter.
        model: in evaluation mode.
        input_ids: shape (windows, length); the first token of a window is not predicted.
        batch_size: windows per forward pass; bounds the logits in memory.
        reporter: for progress.

    Raises:
        InputError: if there is nothing to predict.
    """
    if input_ids.shape[0] == 0 or input_ids.shape[1] < _MIN_TOKENS:
        raise InputError(f"token ids of shape {tuple(input_ids.shape)} leave nothing to predict")
    nats: list[float] = []
    reader = _Reader(adapter, model)
    with (reporter or Silent()).counting(_READING, len(input_ids)) as count:
        for batch in torch.split(input_ids, batch_size):
            nats += reader.summed_nats(batch, batch[:, 1:])
            count(len(nats))
    return PerplexityResult.of(nats, [input_ids.shape[1] - 1] * len(nats))


def sliding_perplexity(
    adapter: Adapter,
    model: nn.Module,
    tokens: NDArray[np.int64],
    *,
    window: int,
    stride: int,
    bos: int | None = None,
    batch_size: int = 8,
    reporter: Reporter | None = None,
) -> PerplexityResult:
    """Perplexity of one long text, each token predicted once, with at least ``window - stride`` before it.

    Only the tokens of the first window have less context. With ``stride == window`` the windows do not
    overlap; without a BOS token their first tokens are then not predicted.

    Args:
        adapter: the model's adapter.
        model: in evaluation mode.
        tokens: shape (n_tokens,), without special tokens.
        window: tokens read at a time, a BOS token included.
        stride: tokens by which the window moves on.
        bos: token id at the start of every window, or None.
        batch_size: windows per forward pass.
        reporter: for progress.

    Raises:
        InputError: if window, stride and text do not fit.
    """
    width = window - (bos is not None)
    if window < _MIN_TOKENS:
        raise InputError(f"--window {window} is too small; at least {_MIN_TOKENS} tokens are needed")
    if not 1 <= stride <= width:
        raise InputError(f"--stride {stride} must be between 1 and {width}, the tokens in a window")
    if len(tokens) < _MIN_TOKENS:
        raise InputError(f"a text of {len(tokens)} tokens leaves nothing to predict")
    nats: list[float] = []
    predicted: list[int] = []
    reader = _Reader(adapter, model)
    windows = 1 + max(0, math.ceil((len(tokens) - width) / stride))
    with (reporter or Silent()).counting(_READING, windows) as count:
        for ids, targets in _sliding_batches(tokens, width, stride, bos, batch_size):
            nats += reader.summed_nats(ids, targets)
            predicted += (targets != _IGNORED).sum(dim=1).tolist()
            count(len(nats))
    return PerplexityResult.of(nats, predicted)


class _Reader:
    """Losses of windows of text.

    Logits that are one linear map to a large vocabulary are computed for a block of it at a time, which takes
    less memory and time.
    """

    def __init__(self, adapter: Adapter, model: nn.Module) -> None:
        self._adapter, self._model = adapter, model
        self._device = adapter.input_device(model)
        self._head = _large_head(model)

    def summed_nats(self, input_ids: Tensor, targets: Tensor) -> list[float]:
        """Each window's loss summed over its targets, shape (batch, length - 1), except ignored ones.

        In fp32, summed in fp64.
        """
        ids = input_ids.to(self._device)
        losses = None if self._head is None else self._in_blocks(ids, targets, self._head)
        if losses is None:
            self._head = None
            losses = self._from_logits(ids, targets)
        found: list[float] = losses.double().reshape(targets.shape).sum(dim=1).tolist()
        return found

    def _from_logits(self, ids: Tensor, targets: Tensor) -> Tensor:
        logits = self._adapter.logits(self._model, ids)[:, :-1].flatten(0, 1)
        flat = targets.to(logits.device).flatten()
        blocks = zip(torch.split(logits, TOKEN_BLOCK), torch.split(flat, TOKEN_BLOCK), strict=True)
        return torch.cat(
            [
                functional.cross_entropy(block.float(), wanted, ignore_index=_IGNORED, reduction="none")
                for block, wanted in blocks
            ]
        )

    def _in_blocks(self, ids: Tensor, targets: Tensor, head: nn.Linear) -> Tensor | None:
        """The losses from what enters the output embeddings; None if they do not give the logits alone."""
        with _last_logits_only(head) as read, torch.inference_mode():
            last = self._adapter.logits(self._model, ids)
        if len(read) != 1 or read[0][0].shape[:2] != ids.shape or not _same(read[0][1], last):
            return None
        features = read[0][0][:, :-1].flatten(0, 1)
        wanted = targets.to(features.device).flatten()
        counted = wanted != _IGNORED
        with torch.inference_mode():
            losses = losses_in_blocks(features, wanted.where(counted, 0), Unembedding(head.weight, head.bias))
        return losses.where(counted, 0.0)


def _large_head(model: nn.Module) -> nn.Linear | None:
    """The output embeddings, if they are a plain linear map to a large vocabulary."""
    find = getattr(model, "get_output_embeddings", None)
    head = find() if find is not None else None
    if type(head) is not nn.Linear or "forward" in vars(head):  # another library wraps it
        return None
    weight = head.weight
    plain = weight.is_floating_point() and not weight.is_meta
    return head if plain and len(weight) >= LARGE_VOCABULARY else None


@contextmanager
def _last_logits_only(head: nn.Linear) -> Iterator[list[tuple[Tensor, Tensor]]]:
    """Let a linear map compute its last position only; yields its inputs and results."""
    read: list[tuple[Tensor, Tensor]] = []

    def forward(features: Tensor) -> Tensor:
        read.append((features, functional.linear(features[:, -1:], head.weight, head.bias)))
        return read[-1][1]

    vars(head)["forward"] = forward
    try:
        yield read
    finally:
        del vars(head)["forward"]


def _same(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors have the same device, dtype, shape and values; NaN equals nothing."""
    alike = (one.device, one.dtype, one.shape) == (other.device, other.dtype, other.shape)
    return alike and one.equal(other)


def _exp(nats: float) -> float:
    try:
        return math.exp(nats)
    except OverflowError:
        return math.inf


def _sliding_batches(
    tokens: NDArray[np.int64], width: int, stride: int, bos: int | None, batch_size: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of windows of equal length (batch, length) and their targets (batch, length - 1)."""
    rows: list[tuple[NDArray[np.int64], NDArray[np.int64]]] = []
    scored = 0 if bos is not None else 1
    for begin in range(0, len(tokens), stride):
        end = min(begin + width, len(tokens))
        targets = tokens[begin:end].copy()
        targets[: max(scored - begin, 0)] = _IGNORED
        row = (tokens[begin:end], targets)
        if rows and (len(rows) == batch_size or len(row[0]) != len(rows[0][0])):
            yield _batch(rows, bos)
            rows = []
        rows.append(row)
        scored = end
        if end == len(tokens):
            break
    yield _batch(rows, bos)


def _batch(rows: list[tuple[NDArray[np.int64], NDArray[np.int64]]], bos: int | None) -> tuple[Tensor, Tensor]:
    ids = torch.from_numpy(np.stack([row[0] for row in rows]))
    targets = torch.from_numpy(np.stack([row[1] for row in rows]))
    if bos is None:
        return ids, targets[:, 1:]
    return torch.cat([torch.full((len(rows), 1), bos), ids], dim=1), targets
