"""Per-token quantities of final states, without materialising all logits.

If the stack's readout is one linear map, logits are computed for a block of the vocabulary at a time and
folded into a running log-sum-exp; otherwise one sequence (or the stack's fixed batch) is read out at a time.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - the name that PyTorch's users know
from torch import Tensor

from shapcut.models.layer_stack import LayerStack, State, Unembedding
from shapcut.valuation.compiled import Fused
from shapcut.valuation.utilities import Measure

VOCABULARY_BLOCK = 4096


def predicting(features: Tensor) -> Tensor:
    """The positions that predict a next token: (batch, length, width) -> (batch * (length - 1), width)."""
    return features[:, :-1].flatten(0, 1)


def mean_and_halves(tokens: Tensor, windows: int) -> Tensor:
    """Means over all predictions, over every second window, and over the other windows.

    Args:
        tokens: a quantity per prediction, shape (windows * predictions,).
        windows: number of windows; a single window has no halves, their means are NaN.

    Returns:
        Shape (3,), float64.
    """
    exact = tokens.double()
    each = exact.view(windows, -1)
    halves = (
        [each[::2].mean(), each[1::2].mean()] if windows > 1 else 2 * [torch.full_like(exact[0], torch.nan)]
    )
    return torch.stack([exact.mean(), *halves])


def token_quantity(logits: Tensor, input_ids: Tensor, full_logits: Tensor | None = None) -> Tensor:
    """Next-token loss, or the divergence from the full model's distribution if its logits are given.

    Args:
        logits: shape (batch, length, vocabulary).
        input_ids: shape (batch, length).
        full_logits: as ``logits``, of the full model.

    Returns:
        Shape (batch * (length - 1),), float32, in nats.
    """
    rows = predicting(logits).float()
    if full_logits is None:
        # Not `cross_entropy`: its sum over a large vocabulary in float32 is biased by 1e-6 and more.
        return rows.logsumexp(-1) - rows.gather(1, input_ids[:, 1:].reshape(-1, 1)).squeeze(1)
    full = predicting(full_logits).float().log_softmax(-1)
    return F.kl_div(rows.log_softmax(-1), full, reduction="none", log_target=True).sum(-1)


Kernel = Callable[..., Any]
Sums = tuple[Tensor, Tensor]
Block = tuple[Tensor, Tensor | None]
"""Weight and bias of some entries of the vocabulary."""


def fold_log_sum_exp(so_far: Sums, logits: Tensor) -> Sums:
    """One step of a running log-sum-exp over columns that arrive in blocks.

    Args:
        so_far: the largest column (-inf at the start) and the sum of ``exp(column - largest)``, each of
            shape (rows,), float32.
        logits: the next columns, shape (rows, columns), float32; overwritten.
    """
    maximum, total = so_far
    largest = torch.maximum(maximum, logits.amax(dim=-1))
    shift = torch.where(largest.isfinite(), largest, 0.0)
    return largest, total * (maximum - shift).exp() + logits.sub_(shift[:, None]).exp_().sum(dim=-1)


def log_sum_exp(so_far: Sums) -> Tensor:
    """The result of the folding, shape (rows,)."""
    maximum, total = so_far
    return torch.where(maximum.isfinite(), maximum, 0.0) + total.log()


def _fold_likelihood(so_far: Sums, rows: Tensor, block: Block) -> Sums:
    return fold_log_sum_exp(so_far, F.linear(rows, *block).float())


def _fold_divergence(
    so_far: Sums, cross: Tensor, rows: Tensor, full: Sums, block: Block
) -> tuple[Sums, Tensor]:
    """As `_fold_likelihood`; adds the block's part of ``sum_v p_v (z_v - y_v)`` to ``cross``.

    ``full`` is the block of z and p.
    """
    logits = F.linear(rows, *block).float()
    cross = cross + ((full[0] - logits) * full[1]).sum(dim=-1)
    return fold_log_sum_exp(so_far, logits), cross


class Readout(ABC):
    """Reduces final states of whole calibration batches to the mean of a per-token quantity.

    Args:
        stack: the model's layer stack.
        input_ids: the calibration tokens, shape (batch, length).
        fuse: whether to fold blocks of logits in fused kernels.
    """

    def __init__(self, stack: LayerStack, input_ids: Tensor, *, fuse: bool = False) -> None:
        self.stack = stack
        self._fuse = fuse
        self.input_ids = input_ids
        self.linear = stack.unembedding()

    def means(self, states: Sequence[State]) -> list[Tensor]:
        """For each state the mean over its (batch * (length - 1)) predictions, a float64 scalar tensor."""
        return [found[0] for found in self.measurements(states)]

    def measurements(self, states: Sequence[State]) -> list[Tensor]:
        """For each state the mean over its (batch * (length - 1)) predictions and over two halves of them.

        See `mean_and_halves`.
        """
        if self.linear is not None:
            features = [predicting(self.stack.features(state)) for state in states]
            quantities: Iterable[Tensor] = self._blockwise(features, self.linear)
        else:
            quantities = map(self._plain, states)
        return [mean_and_halves(tokens, len(self.input_ids)) for tokens in quantities]

    def _kernel(self, function: Kernel) -> Kernel:
        return Fused(function) if self._fuse else function

    def _normaliser(self, rows: Tensor, linear: Unembedding, fold: Kernel) -> Tensor:
        """Log-sum-exp of all logits of each row."""
        so_far = _nothing(rows)
        for block in _vocabulary_blocks(linear):
            so_far = fold(so_far, rows, block)
        return log_sum_exp(so_far)

    @abstractmethod
    def _blockwise(self, features: Sequence[Tensor], linear: Unembedding) -> list[Tensor]:
        """Quantity per prediction for each (predictions, width) tensor."""

    @abstractmethod
    def _plain(self, state: State) -> Tensor:
        """Quantity per prediction from logits of a few sequences at a time."""

    def _logits(self, state: State) -> Iterator[Tensor]:
        """Logits (sequences, length, vocabulary) of a few sequences at a time."""
        size = self.stack.batch_size or 1
        for start in range(0, state[0].shape[0], size):
            yield self.stack.readout(tuple(tensor[start : start + size] for tensor in state))


def _nothing(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Maximum and total before the first block."""
    return torch.full((len(rows),), -torch.inf, device=rows.device), torch.zeros(
        len(rows), device=rows.device
    )


def _vocabulary_blocks(linear: Unembedding) -> Iterator[Block]:
    for start in range(0, linear.weight.shape[0], VOCABULARY_BLOCK):
        part = slice(start, start + VOCABULARY_BLOCK)
        yield linear.weight[part], None if linear.bias is None else linear.bias[part]


def _target_logits(features: Tensor, targets: Tensor, linear: Unembedding) -> Tensor:
    logits = (features.float() * linear.weight[targets].float()).sum(dim=-1)
    return logits if linear.bias is None else logits + linear.bias[targets].float()


class NextTokenLoss(Readout):
    """Negative log-likelihood of the next token, in nats."""

    def __init__(self, stack: LayerStack, input_ids: Tensor, *, fuse: bool = False) -> None:
        super().__init__(stack, input_ids, fuse=fuse)
        self._fold = self._kernel(_fold_likelihood)

    def _blockwise(self, features: Sequence[Tensor], linear: Unembedding) -> list[Tensor]:
        targets = self.input_ids[:, 1:].flatten()
        return [
            self._normaliser(rows, linear, self._fold) - _target_logits(rows, targets, linear)
            for rows in features
        ]

    def _plain(self, state: State) -> Tensor:
        parts = zip(self._logits(state), torch.split(self.input_ids, self.stack.batch_size or 1), strict=True)
        return torch.cat([token_quantity(logits, ids) for logits, ids in parts])


class Divergence(Readout):
    """KL(full || coalition) of next-token distributions, in nats.

    With z the full model's logits and y the coalition's, ``KL = sum_v p_v (z_v - y_v) - lse(z) + lse(y)``;
    each block of z is computed once for all states of a call.
    """

    def __init__(
        self, stack: LayerStack, input_ids: Tensor, full_state: State, *, fuse: bool = False
    ) -> None:
        super().__init__(stack, input_ids, fuse=fuse)
        self._full_state = full_state
        self._fold = self._kernel(_fold_divergence)
        if self.linear is not None:
            self._full = predicting(stack.features(full_state))
            self._full_normaliser = self._normaliser(self._full, self.linear, _fold_likelihood)

    def _blockwise(self, features: Sequence[Tensor], linear: Unembedding) -> list[Tensor]:
        sums = [_nothing(rows) for rows in features]
        cross = [torch.zeros(len(rows), device=rows.device) for rows in features]
        for block in _vocabulary_blocks(linear):
            logits = F.linear(self._full, *block).float()
            full = logits, (logits - self._full_normaliser[:, None]).exp_()
            for i, rows in enumerate(features):
                sums[i], cross[i] = self._fold(sums[i], cross[i], rows, full, block)
        return [
            total - self._full_normaliser + log_sum_exp(so_far)
            for total, so_far in zip(cross, sums, strict=True)
        ]

    def _plain(self, state: State) -> Tensor:
        batches = torch.split(self.input_ids, self.stack.batch_size or 1)
        parts = zip(self._logits(state), batches, self._logits(self._full_state), strict=True)
        return torch.cat([token_quantity(logits, ids, full) for logits, ids, full in parts])


def make_readout(
    measure: Measure, stack: LayerStack, input_ids: Tensor, full_state: State, *, fuse: bool = False
) -> Readout:
    """The readout for a measure."""
    if measure == "kl":
        return Divergence(stack, input_ids, full_state, fuse=fuse)
    return NextTokenLoss(stack, input_ids, fuse=fuse)
