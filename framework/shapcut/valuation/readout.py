"""Per-token quantities of final states, without materialising all logits.

If the stack's readout is one linear map, logits are computed for a block of the vocabulary at a time and
folded into a running log-sum-exp; otherwise one sequence (or the stack's fixed batch) is read out at a time.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F  # noqa: N812 - the name that PyTorch's users know
from torch import Tensor

from shapcut.models.layer_stack import LayerStack, State, Unembedding
from shapcut.valuation.compiled import Fused
from shapcut.valuation.step_probe import cut, joined
from shapcut.valuation.utilities import Measure

VOCABULARY_BLOCK = 4096
MOST_ROWS_READ_OUT = 4096
"""Predictions whose logits of one block of the vocabulary exist at a time: 64 MiB in float32."""

MOST_STATES_READ_OUT = 8
"""States whose normalised copies exist at a time."""


EXACT_TOKENS, SAMPLED_TOKENS = 14_336, 2_048
"""Of a large vocabulary, for `SampledLoss`."""


def predicting(features: Tensor) -> Tensor:
    """The positions that predict a next token: (batch, length, width) -> (batch * (length - 1), width)."""
    return features[:, :-1].flatten(0, 1)


def means_of_windows(tokens: Tensor, windows: int) -> Tensor:
    """Means of a quantity per prediction, shape (windows * predictions,), over each window: float64."""
    return tokens.double().view(windows, -1).mean(dim=1)


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
    """Reduces final states of windows of the calibration text to the windows' means of a per-token quantity.

    Args:
        stack: the model's layer stack.
        input_ids: the calibration tokens, shape (windows, length).
        step: number of windows to read out together.
        fuse: whether to fold blocks of logits in fused kernels.

    Attributes:
        compares: whether a quantity depends on the full model's final states.
    """

    compares: ClassVar[bool] = False

    def __init__(
        self, stack: LayerStack, input_ids: Tensor, step: int | None = None, *, fuse: bool = False
    ) -> None:
        self.stack = stack
        self._fuse = fuse
        self._step = step or len(input_ids)
        self.input_ids = input_ids
        self.linear = stack.unembedding()
        if self.linear is not None:  # as the features are, in a model on several devices
            self.input_ids = input_ids.to(self.linear.weight.device)

    def take_full(self, state: State, first: int = 0) -> None:  # noqa: B027 - most measures need none
        """Note the full model's final state of the windows from ``first`` on, before any other."""

    def window_means(self, states: Sequence[State], first: int = 0) -> Tensor:
        """For each state the means over each of its windows, the text's from ``first`` on.

        Returns:
            Shape (states, windows), float64.
        """
        windows, found = states[0][0].shape[0], []
        for start in range(0, windows, self._step):
            stop = min(start + self._step, windows)
            taken = [cut(state, start, stop) for state in states]
            tokens = self._tokens(taken, slice(first + start, first + stop))
            found.append(torch.stack([means_of_windows(each, stop - start) for each in tokens]))
        return torch.cat(found, dim=1)

    def _tokens(self, states: Sequence[State], windows: slice) -> Iterator[Tensor]:
        """The quantity per prediction of some windows for each state."""
        if self.linear is None:
            yield from (self._plain(state, windows) for state in states)
            return
        for start in range(0, len(states), MOST_STATES_READ_OUT):
            some = states[start : start + MOST_STATES_READ_OUT]
            yield from self._blockwise(
                [predicting(self.stack.features(state)) for state in some], self.linear, windows
            )

    def _kernel(self, function: Kernel) -> Kernel:
        return Fused(function) if self._fuse else function

    def _normaliser(self, rows: Tensor, linear: Unembedding, fold: Kernel) -> Tensor:
        """Log-sum-exp of all logits of each row."""
        return log_normaliser(rows, linear, fold)

    @abstractmethod
    def _blockwise(self, features: Sequence[Tensor], linear: Unembedding, windows: slice) -> Iterable[Tensor]:
        """Quantity per prediction for each (predictions, width) tensor."""

    @abstractmethod
    def _plain(self, state: State, windows: slice) -> Tensor:
        """Quantity per prediction from logits of a few sequences at a time."""

    def _logits(self, state: State) -> Iterator[Tensor]:
        """Logits (sequences, length, vocabulary) of a few sequences at a time."""
        size = self.stack.batch_size or 1
        for start in range(0, state[0].shape[0], size):
            yield self.stack.readout(cut(state, start, start + size))


def losses_in_blocks(features: Tensor, targets: Tensor, linear: Unembedding) -> Tensor:
    """Next-token losses from the features that a linear map turns into logits.

    Args:
        features: shape (predictions, width).
        targets: the next tokens, shape (predictions,).
        linear: the map.

    Returns:
        Shape (predictions,), float32, in nats.
    """
    return log_normaliser(features, linear, _fold_likelihood) - _target_logits(features, targets, linear)


def log_normaliser(rows: Tensor, linear: Unembedding, fold: Kernel) -> Tensor:
    """Log-sum-exp of all logits of each row, folded by blocks of the vocabulary."""
    found = []
    for some in torch.split(rows, MOST_ROWS_READ_OUT):
        so_far = _nothing(some)
        for block in _vocabulary_blocks(linear):
            so_far = fold(so_far, some, block)
        found.append(log_sum_exp(so_far))
    return torch.cat(found)


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

    def __init__(
        self, stack: LayerStack, input_ids: Tensor, step: int | None = None, *, fuse: bool = False
    ) -> None:
        super().__init__(stack, input_ids, step, fuse=fuse)
        self._fold = self._kernel(_fold_likelihood)

    def _blockwise(self, features: Sequence[Tensor], linear: Unembedding, windows: slice) -> Iterable[Tensor]:
        targets = self.input_ids[windows, 1:].flatten()
        for rows in features:
            yield self._normaliser(rows, linear, self._fold) - _target_logits(rows, targets, linear)

    def _plain(self, state: State, windows: slice) -> Tensor:
        ids = torch.split(self.input_ids[windows], self.stack.batch_size or 1)
        parts = zip(self._logits(state), ids, strict=True)
        return torch.cat([token_quantity(logits, some) for logits, some in parts])


class SampledLoss(NextTokenLoss):
    """`NextTokenLoss` with the normaliser of a large vocabulary estimated from a part of it.

    The tokens that the full model finds likeliest on this text are summed exactly, the others through a
    sample (importance sampling, its weights added to the logits). What the estimate gets wrong for the full
    model is taken off each window, so that only differences to the full model carry an error, and small ones
    a small one.
    """

    compares = True

    def __init__(
        self, stack: LayerStack, input_ids: Tensor, step: int | None = None, *, fuse: bool = False
    ) -> None:
        super().__init__(stack, input_ids, step, fuse=fuse)
        self._part: Unembedding | None = None
        self._errors: dict[int, Tensor] = {}
        """Of the estimate, for the full model on each window."""

    def take_full(self, state: State, first: int = 0) -> None:
        """See `Readout.take_full`: learns which tokens are likely, and the estimate's errors."""
        if self.linear is None:
            raise TypeError("the readout is not one linear map")
        exact, windows = [], state[0].shape[0]
        for start in range(0, windows, self._step):
            stop = min(start + self._step, windows)
            rows = predicting(self.stack.features(cut(state, start, stop)))
            normaliser = log_normaliser(rows, self.linear, _fold_likelihood)
            if self._part is None:
                self._part = sampled_vocabulary(self.linear, _likelihood(rows, normaliser, self.linear))
            targets = self.input_ids[first + start : first + stop, 1:].flatten()
            losses = normaliser - _target_logits(rows, targets, self.linear)
            exact.append(means_of_windows(losses, stop - start))
        (estimated,) = super().window_means([state], first)
        self._errors.update(enumerate(estimated - torch.cat(exact), first))

    def window_means(self, states: Sequence[State], first: int = 0) -> Tensor:
        """See `Readout.window_means`."""
        windows = range(first, first + states[0][0].shape[0])
        return super().window_means(states, first) - torch.stack([self._errors[each] for each in windows])

    def _normaliser(self, rows: Tensor, linear: Unembedding, fold: Kernel) -> Tensor:
        return log_normaliser(rows, self._part or linear, fold)


def _likelihood(rows: Tensor, normaliser: Tensor, linear: Unembedding) -> Tensor:
    """The mean probability of each token over predictions, shape (vocabulary,)."""
    logits = (F.linear(rows, *block).float() for block in _vocabulary_blocks(linear))
    return torch.cat([(some - normaliser[:, None]).exp().mean(dim=0) for some in logits])


def sampled_vocabulary(linear: Unembedding, likelihood: Tensor) -> Unembedding:
    """The likeliest tokens and a sample of the others, whose log-sum-exp estimates that of all.

    Args:
        linear: the map to all logits.
        likelihood: the mean probability of each token, shape (vocabulary,).
    """
    order = likelihood.argsort(descending=True)
    top, rest = order[:EXACT_TOKENS], order[EXACT_TOKENS:]
    known = likelihood[rest].double().cpu()
    chance = (known / known.sum().clamp_min(1e-300) + 1 / len(rest)) / 2
    drawn = torch.multinomial(
        chance, SAMPLED_TOKENS, replacement=True, generator=torch.Generator().manual_seed(0)
    )
    weights = torch.cat(
        [torch.zeros(len(top)), -(SAMPLED_TOKENS * chance[drawn] / chance.sum()).log().float()]
    )
    chosen = torch.cat([top, rest[drawn.to(rest.device)]])
    bias = weights.to(linear.weight)
    return Unembedding(linear.weight[chosen], bias if linear.bias is None else bias + linear.bias[chosen])


class Divergence(Readout):
    """KL(full || coalition) of next-token distributions, in nats.

    With z the full model's logits and y the coalition's, ``KL = sum_v p_v (z_v - y_v) - lse(z) + lse(y)``;
    each block of z is computed once for several states.
    """

    compares = True

    def __init__(
        self, stack: LayerStack, input_ids: Tensor, step: int | None = None, *, fuse: bool = False
    ) -> None:
        super().__init__(stack, input_ids, step, fuse=fuse)
        self._fold = self._kernel(_fold_divergence)
        self._full: dict[int, State] = {}
        """The full model's final state of each window."""

    def take_full(self, state: State, first: int = 0) -> None:
        """See `Readout.take_full`; keeps the state."""
        for window in range(state[0].shape[0]):
            self._full[first + window] = cut(state, window, window + 1)

    def _full_state(self, windows: slice) -> State:
        return joined([self._full[window] for window in range(windows.start, windows.stop)])

    def _blockwise(self, features: Sequence[Tensor], linear: Unembedding, windows: slice) -> Iterable[Tensor]:
        full = predicting(self.stack.features(self._full_state(windows)))
        pieces = zip(*(torch.split(rows, MOST_ROWS_READ_OUT) for rows in (full, *features)), strict=True)
        found = [self._divergences(full_rows, rows, linear) for full_rows, *rows in pieces]
        return [torch.cat(parts) for parts in zip(*found, strict=True)]

    def _divergences(self, full: Tensor, features: Sequence[Tensor], linear: Unembedding) -> list[Tensor]:
        """As `_blockwise`, of a few rows."""
        normaliser = self._normaliser(full, linear, _fold_likelihood)
        sums = [_nothing(rows) for rows in features]
        cross = [torch.zeros(len(rows), device=rows.device) for rows in features]
        for block in _vocabulary_blocks(linear):
            logits = F.linear(full, *block).float()
            both = logits, (logits - normaliser[:, None]).exp_()
            for i, rows in enumerate(features):
                sums[i], cross[i] = self._fold(sums[i], cross[i], rows, both, block)
        return [total - normaliser + log_sum_exp(so_far) for total, so_far in zip(cross, sums, strict=True)]

    def _plain(self, state: State, windows: slice) -> Tensor:
        ids = torch.split(self.input_ids[windows], self.stack.batch_size or 1)
        parts = zip(self._logits(state), ids, self._logits(self._full_state(windows)), strict=True)
        return torch.cat([token_quantity(logits, some, full) for logits, some, full in parts])


def make_readout(
    measure: Measure,
    stack: LayerStack,
    input_ids: Tensor,
    step: int | None = None,
    *,
    fuse: bool = False,
    sampled: bool = False,
) -> Readout:
    """The readout for a measure; ``sampled``: see `SampledLoss`, where the vocabulary is large enough."""
    linear = stack.unembedding()
    if measure == "kl":
        return Divergence(stack, input_ids, step, fuse=fuse)
    large = linear is not None and len(linear.weight) >= 2 * (EXACT_TOKENS + SAMPLED_TOKENS)
    return (SampledLoss if sampled and large else NextTokenLoss)(stack, input_ids, step, fuse=fuse)
