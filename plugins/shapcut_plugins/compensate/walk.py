"""Walk the original and the pruned model side by side and fit blocks of the pruned one."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from shapcut.contracts import (
    Adapter,
    Granularity,
    InputError,
    LayerStack,
    OutputProjection,
    State,
    fast_matrix_products,
)
from shapcut_plugins.compensate.cut_blocks import CutBlocks
from shapcut_plugins.compensate.places import Place, place_of
from shapcut_plugins.compensate.regression import Moments, fit

Choice = Callable[[int, bool], Sequence[OutputProjection]]

TOKENS_PER_STEP = 4096
MOST_FOLDS = 3
"""Texts are fitted in at most this many groups, whose moments are kept apart."""

SHARES = (1.0, 0.5, 0.25)
"""Shares of the change to try: the rest of a block reacts to a change of its mixer."""

_LEAST = torch.finfo(torch.float64).tiny
_HELD = -1
"""The group of windows that are not fitted."""


@dataclass(frozen=True, slots=True)
class Mended:
    """One fitted projection.

    Attributes:
        block: of the pruned model.
        module: the projection, or the bias of one that is not linear.
        ridge: see `Fit`; None if the projection is unchanged.
        share: share of the change that was applied; less than 1 where the rest of the block counteracts it.
        error: remaining share of the stream's weighted squared error on windows held back, the mean over
            texts.
    """

    block: int
    module: str
    ridge: float | None
    share: float
    error: float


class Walk:
    """The residual streams of both models, advanced block by block.

    Holds the streams of all tokens, but inner activations of one batch only.

    Args:
        adapter: the adapter of both models.
        original: the whole model.
        pruned: the model to mend, in place.
        fitted: token ids of each text to fit, shape (windows, length).
        held: token ids of each text to judge changes by.
        weight_power: weight of a token: the norm of its target to minus this power.
    """

    def __init__(
        self,
        adapter: Adapter,
        original: nn.Module,
        pruned: nn.Module,
        *,
        fitted: Sequence[Tensor],
        held: Sequence[Tensor],
        weight_power: float,
    ) -> None:
        self._pruned = pruned
        self._weight_power = weight_power
        self._stacks = (layer_stack(adapter, original), layer_stack(adapter, pruned))
        device = adapter.input_device(pruned)
        rows = self._stacks[0].batch_size or max(1, TOKENS_PER_STEP // fitted[0].shape[1])
        self._groups: list[int] = []
        self._texts: list[int] = []
        batches: list[Tensor] = []
        for windows, is_held in ((fitted, False), (held, True)):
            for text, found in enumerate(windows):
                parts = torch.split(found.to(device), rows)
                batches += parts
                self._groups += [_HELD if is_held else text % MOST_FOLDS] * len(parts)
                self._texts += [text] * len(parts)
        self._streams = [self._stacks[0].prelude(batch) for batch in batches]
        self._pruned_streams = self._streams
        self._stacks[1].prelude(batches[0])

    def mend(self, blocks: CutBlocks, choose: Choice, said: Callable[[int], None]) -> list[Mended]:
        """Walk both models and fit blocks of the pruned one.

        The target after block j of the pruned model is the original's stream before the block that becomes
        block j + 1, that is, after everything removed in between. Before the first cut both models agree.

        Args:
            blocks: of the pruned model.
            choose: maps a block of the pruned model and whether something was cut in or beside it to the
                projections to fit, in order.
            said: receives the number of finished blocks of the original.
        """
        mended: list[Mended] = []
        starts = blocks.starts
        self._advance_original(range(starts[0]), said)
        same = starts[0] == 0
        for index, (own, following) in enumerate(zip(starts, [*starts[1:], blocks.depth], strict=True)):
            cut = index in blocks.changed
            if same:
                self._pruned_streams = self._streams
            self._advance_original(range(own, following), said)
            if same and not cut:
                continue
            same = False
            mended += [self._mend(index, projection) for projection in choose(index, cut)]
            if index < len(starts) - 1:
                self._pruned_streams = [
                    self._step(self._stacks[1], index, state) for state in self._pruned_streams
                ]
        return mended

    def _step(self, stack: LayerStack, index: int, state: State) -> State:
        with fast_matrix_products(stack.stream(state).device):
            return stack.step(index, state)

    def _advance_original(self, blocks: Iterable[int], said: Callable[[int], None]) -> None:
        for index in blocks:
            self._streams = [self._step(self._stacks[0], index, state) for state in self._streams]
            said(index + 1)

    def _mend(self, index: int, projection: OutputProjection) -> Mended:
        """Fit one projection so that its block's output approaches the original's stream."""
        place = place_of(self._pruned, projection)
        *texts, held = self._moments(index, projection, place)
        found = fit(texts, held, place.penalised())
        if not math.isfinite(found.ridge):
            return Mended(index, place.name, None, 0.0, 1.0)
        before = self._held_errors(index, projection)
        best, chosen = 1.0, 0.0
        for share in SHARES:
            place.fold(share * found.change)
            after = self._held_errors(index, projection)
            error = sum(after[text] / max(before[text], _LEAST) for text in before) / len(before)
            if error >= best and chosen:
                break
            if error < best:
                best, chosen = error, share
        place.fold(chosen * found.change)
        if not chosen:
            return Mended(index, place.name, None, 0.0, 1.0)
        return Mended(index, place.name, found.ridge, chosen, best)

    def _held_errors(self, index: int, projection: OutputProjection) -> dict[int, float]:
        """The block's current weighted squared error on each text's held-back windows."""
        totals: dict[int, float] = {}
        for group, text, (state, target) in zip(self._groups, self._texts, self._pairs(), strict=True):
            if group == _HELD:
                after = self._step(self._stacks[1], index, state)
                errors, weights = self._errors(projection, after, target)
                error = float((errors.double().square().sum(1) * weights).sum())
                totals[text] = totals.get(text, 0.0) + error
        return totals

    def _pairs(self) -> list[tuple[State, State]]:
        """For each batch the pruned model's state and its target after the next block."""
        return list(zip(self._pruned_streams, self._streams, strict=True))

    def _errors(self, projection: OutputProjection, after: State, target: State) -> tuple[Tensor, Tensor]:
        """Target minus output, shape (tokens, width), and the tokens' weights, shape (tokens,)."""
        wanted = self._stacks[0].stream(target).flatten(0, -2).float()
        errors = (wanted - self._stacks[1].stream(after).flatten(0, -2).float()) / projection.factor
        smallest = torch.finfo(torch.float32).tiny
        return errors, wanted.norm(dim=1).clamp_min(smallest) ** -self._weight_power

    def _moments(self, index: int, projection: OutputProjection, place: Place) -> list[Moments]:
        """Moments of each group of fitted texts, and last those of the windows held back."""
        groups = [*sorted({*self._groups} - {_HELD}), _HELD]
        sums = {group: Moments(place.inputs, place.outputs, place.device) for group in groups}
        for group, (state, target) in zip(self._groups, self._pairs(), strict=True):
            if group == _HELD and len(groups) > 2:  # noqa: PLR2004 - several texts predict each other
                continue
            with place.watched() as given:
                after = self._step(self._stacks[1], index, state)
            errors, weights = self._errors(projection, after, target)
            sums[group].add(place.activations(given, len(errors)), errors, weights)
        return [sums[group] for group in groups]


def layer_stack(adapter: Adapter, model: nn.Module, granularity: Granularity = "block") -> LayerStack:
    """The model block by block.

    Raises:
        InputError: if it cannot be run so.
    """
    stack = adapter.stack(model, granularity)
    if stack is None:
        raise InputError(
            f"compensate: {type(model).__name__} cannot be run block by block; leave out this step"
        )
    return stack
