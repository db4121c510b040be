"""Per-token quantities of final states, without ever holding all logits.

Where the stack's readout is one linear map, logits are made for a block of the vocabulary at a time and
folded into a running log-sum-exp; elsewhere one sequence (or the stack's fixed batch) is read out at a time.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F  # noqa: N812 - the name that PyTorch's users know
from torch import Tensor

from shapcut.adapter import LayerStack, State, Unembedding
from shapcut.utilities import Measure

VOCABULARY_BLOCK = 4096


def predicting(features: Tensor) -> Tensor:
    """The positions that predict a next token: (batch, length, width) -> (batch * (length - 1), width)."""
    return features[:, :-1].flatten(0, 1)


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
        return F.cross_entropy(rows, input_ids[:, 1:].flatten(), reduction="none")
    full = predicting(full_logits).float().log_softmax(-1)
    return F.kl_div(rows.log_softmax(-1), full, reduction="none", log_target=True).sum(-1)


class RunningLogSumExp:
    """log(sum(exp(x))) over columns that arrive in blocks; one result a row, in float32."""

    def __init__(self, rows: int, device: torch.device) -> None:
        self._maximum = torch.full((rows,), -torch.inf, device=device)
        self._sum = torch.zeros(rows, device=device)

    def add(self, block: Tensor) -> None:
        """Fold in a float32 block of shape (rows, columns); the block is overwritten."""
        maximum = torch.maximum(self._maximum, block.amax(dim=-1))
        shift = torch.where(maximum.isfinite(), maximum, 0.0)
        self._sum = self._sum * (self._maximum - shift).exp() + block.sub_(shift[:, None]).exp_().sum(dim=-1)
        self._maximum = maximum

    def result(self) -> Tensor:
        """Shape (rows,)."""
        shift = torch.where(self._maximum.isfinite(), self._maximum, 0.0)
        return shift + self._sum.log()


class Readout(ABC):
    """Turns final states of whole calibration batches into the mean of a per-token quantity.

    Args:
        stack: the model taken apart.
        input_ids: the calibration tokens, shape (batch, length).
    """

    def __init__(self, stack: LayerStack, input_ids: Tensor) -> None:
        self.stack = stack
        self.input_ids = input_ids
        self.linear = stack.unembedding()

    def means(self, states: Sequence[State]) -> list[Tensor]:
        """For each state the mean over its (batch * (length - 1)) predictions, a float64 scalar tensor."""
        if self.linear is not None:
            features = [predicting(self.stack.features(state)) for state in states]
            return [tokens.double().mean() for tokens in self._blockwise(features, self.linear)]
        return [self._plain(state).double().mean() for state in states]

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


def _vocabulary_blocks(linear: Unembedding) -> Iterator[tuple[Tensor, Tensor | None]]:
    for start in range(0, linear.weight.shape[0], VOCABULARY_BLOCK):
        part = slice(start, start + VOCABULARY_BLOCK)
        yield linear.weight[part], None if linear.bias is None else linear.bias[part]


def _target_logits(features: Tensor, targets: Tensor, linear: Unembedding) -> Tensor:
    logits = (features.float() * linear.weight[targets].float()).sum(dim=-1)
    return logits if linear.bias is None else logits + linear.bias[targets].float()


class NextTokenLoss(Readout):
    """Negative log-likelihood of the next token, in nats."""

    def _blockwise(self, features: Sequence[Tensor], linear: Unembedding) -> list[Tensor]:
        targets = self.input_ids[:, 1:].flatten()
        losses = []
        for rows in features:
            normaliser = RunningLogSumExp(len(rows), rows.device)
            for weight, bias in _vocabulary_blocks(linear):
                normaliser.add(F.linear(rows, weight, bias).float())
            losses.append(normaliser.result() - _target_logits(rows, targets, linear))
        return losses

    def _plain(self, state: State) -> Tensor:
        parts = zip(self._logits(state), torch.split(self.input_ids, self.stack.batch_size or 1), strict=True)
        return torch.cat([token_quantity(logits, ids) for logits, ids in parts])


class Divergence(Readout):
    """KL(full || coalition) of next-token distributions, in nats.

    With z the full model's logits and y the coalition's, ``KL = sum_v p_v (z_v - y_v) - lse(z) + lse(y)``;
    each block of z is made once for all the states of a call.
    """

    def __init__(self, stack: LayerStack, input_ids: Tensor, full_state: State) -> None:
        super().__init__(stack, input_ids)
        self._full_state = full_state
        if self.linear is not None:
            self._full = predicting(stack.features(full_state))
            normaliser = RunningLogSumExp(len(self._full), self._full.device)
            for weight, bias in _vocabulary_blocks(self.linear):
                normaliser.add(F.linear(self._full, weight, bias).float())
            self._full_normaliser = normaliser.result()

    def _blockwise(self, features: Sequence[Tensor], linear: Unembedding) -> list[Tensor]:
        cross = [torch.zeros(len(rows), device=rows.device) for rows in features]
        normalisers = [RunningLogSumExp(len(rows), rows.device) for rows in features]
        for weight, bias in _vocabulary_blocks(linear):
            full = F.linear(self._full, weight, bias).float()
            probability = (full - self._full_normaliser[:, None]).exp_()
            for rows, total, normaliser in zip(features, cross, normalisers, strict=True):
                logits = F.linear(rows, weight, bias).float()
                total.add_(((full - logits) * probability).sum(dim=-1))
                normaliser.add(logits)
        return [
            total - self._full_normaliser + normaliser.result()
            for total, normaliser in zip(cross, normalisers, strict=True)
        ]

    def _plain(self, state: State) -> Tensor:
        batches = torch.split(self.input_ids, self.stack.batch_size or 1)
        parts = zip(self._logits(state), batches, self._logits(self._full_state), strict=True)
        return torch.cat([token_quantity(logits, ids, full) for logits, ids, full in parts])


def make_readout(measure: Measure, stack: LayerStack, input_ids: Tensor, full_state: State) -> Readout:
    """The readout that a token utility needs."""
    if measure == "kl":
        return Divergence(stack, input_ids, full_state)
    return NextTokenLoss(stack, input_ids)
