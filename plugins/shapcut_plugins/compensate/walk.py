"""Walk the original and the pruned model side by side and fit blocks of the pruned one."""

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from shapcut.contracts import Adapter, InputError, LayerStack, OutputProjection, State, fast_matrix_products
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
        module: the projection.
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
        self._stacks = (_stack(adapter, original), _stack(adapter, pruned))
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

    def mend(
        self,
        kept: Sequence[int],
        depth: int,
        choose: Choice,
        said: Callable[[int], None],
        changed: Collection[int] = (),
    ) -> list[Mended]:
        """Walk both models and fit blocks of the pruned one.

        The target after block j of the pruned model is the original's stream before the block that becomes
        block j + 1, that is, after the removed blocks in between. Before the first cut both models agree.

        Args:
            kept: the original's kept blocks.
            depth: number of the original's blocks.
            choose: maps a block of the pruned model and whether blocks were cut beside it to the projections
                to fit, in order.
            said: receives the number of finished blocks of the original.
            changed: blocks of the pruned model that lost a part, which counts as a cut beside them.
        """
        mended: list[Mended] = []
        self._advance_original(range(kept[0]), said)
        same = kept[0] == 0
        for index, (own, following) in enumerate(zip(kept, [*kept[1:], depth], strict=True)):
            cut = following - own > 1 or (index == 0 and own > 0) or index in changed
            if same:
                self._pruned_streams = self._streams
            self._advance_original(range(own, following), said)
            if same and not cut:
                continue
            same = False
            mended += [self._mend(index, projection) for projection in choose(index, cut)]
            if index < len(kept) - 1:
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
        module: Any = self._pruned.get_submodule(projection.module)
        *texts, held = self._moments(index, projection, module)
        penalised = torch.ones(len(held.second), dtype=torch.float64, device=held.second.device)
        if module.bias is not None:
            penalised[-1] = 0.0
        found = fit(texts, held, penalised)
        if not math.isfinite(found.ridge):
            return Mended(index, projection.module, None, 0.0, 1.0)
        start, before = _copied(module), self._held_errors(index, projection)
        best, chosen = 1.0, 0.0
        for share in SHARES:
            _restore(module, start)
            _fold(module, share * found.change, transposed=projection.transposed)
            after = self._held_errors(index, projection)
            error = sum(after[text] / max(before[text], _LEAST) for text in before) / len(before)
            if error >= best and chosen:
                break
            if error < best:
                best, chosen = error, share
        _restore(module, start)
        if not chosen:
            return Mended(index, projection.module, None, 0.0, 1.0)
        _fold(module, chosen * found.change, transposed=projection.transposed)
        return Mended(index, projection.module, found.ridge, chosen, best)

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

    def _moments(self, index: int, projection: OutputProjection, module: Any) -> list[Moments]:
        """Moments of each group of fitted texts, and last those of the windows held back."""
        outputs = _outputs(module, projection)
        inputs = module.weight.numel() // outputs + (module.bias is not None)
        groups = [*sorted({*self._groups} - {_HELD}), _HELD]
        sums = {group: Moments(inputs, outputs, module.weight.device) for group in groups}
        for group, (state, target) in zip(self._groups, self._pairs(), strict=True):
            if group == _HELD and len(groups) > 2:  # noqa: PLR2004 - several texts predict each other
                continue
            with _inputs_of(module) as given:
                after = self._step(self._stacks[1], index, state)
            errors, weights = self._errors(projection, after, target)
            activations = given[0].reshape(len(errors), -1).float()
            if module.bias is not None:
                activations = torch.cat([activations, torch.ones_like(activations[:, :1])], dim=1)
            sums[group].add(activations, errors, weights)
        return [sums[group] for group in groups]


def _outputs(module: Any, projection: OutputProjection) -> int:
    return int(module.weight.shape[1 if projection.transposed else 0])


def _fold(module: Any, change: Tensor, *, transposed: bool) -> None:
    """Add a change to a module's weight and bias in float64, stored in their own dtype."""
    inputs = len(change) - (module.bias is not None)
    weight = change[:inputs] if transposed else change[:inputs].t()
    module.weight.copy_((module.weight.double() + weight).to(module.weight.dtype))
    if module.bias is not None:
        module.bias.copy_((module.bias.double() + change[-1]).to(module.bias.dtype))


def _copied(module: Any) -> tuple[Tensor, Tensor | None]:
    """A module's weight and bias."""
    return module.weight.clone(), None if module.bias is None else module.bias.clone()


def _restore(module: Any, start: tuple[Tensor, Tensor | None]) -> None:
    module.weight.copy_(start[0])
    if start[1] is not None:
        module.bias.copy_(start[1])


@contextmanager
def _inputs_of(module: nn.Module) -> Iterator[list[Tensor]]:
    """Record a module's inputs while the context is open."""
    given: list[Tensor] = []
    handle = module.register_forward_pre_hook(lambda _module, args: given.append(args[0]))
    try:
        yield given
    finally:
        handle.remove()


def _stack(adapter: Adapter, model: nn.Module) -> LayerStack:
    stack = adapter.stack(model)
    if stack is None:
        raise InputError(
            f"compensate: {type(model).__name__} cannot be run block by block; leave out this step"
        )
    return stack
