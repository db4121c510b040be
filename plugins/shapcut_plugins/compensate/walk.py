"""Going through the original and the pruned model side by side, mending blocks of the latter on the way."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from shapcut.contracts import Adapter, InputError, LayerStack, OutputProjection, State, fast_matrix_products
from shapcut_plugins.compensate.regression import Moments, fit

Choice = Callable[[int, bool], Sequence[OutputProjection]]

TOKENS_PER_STEP = 4096
CHECKED_SHARE = 8
"""One batch of so many is kept for choosing the ridge; there are at least so many if the windows suffice."""


SHARES = (1.0, 0.5, 0.25)
"""Of the change that are tried: what follows in the block answers to a change of its mixer."""


@dataclass(frozen=True, slots=True)
class Mended:
    """One projection that was fitted.

    Attributes:
        block: of the pruned model.
        module: the projection.
        ridge: see `Fit`; None if nothing was changed.
        share: of the change that was made: less than 1 where the rest of the block would undo it.
        error: what is left of the stream's weighted squared error on tokens that were not fitted.
    """

    block: int
    module: str
    ridge: float | None
    share: float
    error: float


class Walk:
    """The residual streams of both models, batch by batch, from block to block.

    Streams of all tokens are held, inner activations of one batch only.

    Args:
        adapter: of both models.
        original: the whole model.
        pruned: the model to mend, in place.
        windows: token ids, shape (windows, length).
        weight_power: tokens are weighted by the norm of their target to minus this power.
    """

    def __init__(
        self, adapter: Adapter, original: nn.Module, pruned: nn.Module, windows: Tensor, weight_power: float
    ) -> None:
        self._pruned = pruned
        self._weight_power = weight_power
        self._stacks = (_stack(adapter, original), _stack(adapter, pruned))
        most = min(TOKENS_PER_STEP // windows.shape[1], -(-len(windows) // CHECKED_SHARE))
        rows = self._stacks[0].batch_size or max(1, most)
        batches = torch.split(windows.to(adapter.input_device(pruned)), rows)
        self._streams = [stack.prelude(batch) for stack in self._stacks[:1] for batch in batches]
        self._pruned_streams = self._streams
        self._stacks[1].prelude(batches[0])

    def mend(
        self, kept: Sequence[int], depth: int, choose: Choice, said: Callable[[int], None]
    ) -> list[Mended]:
        """Go through both models, mending blocks of the pruned one.

        After its block j the stream should be what the original has before the block that is its block j + 1:
        that is after whatever was cut there. Up to the first cut both models are the same.

        Args:
            kept: the original's blocks that stay.
            depth: number of the original's blocks.
            choose: the projections to fit in a block of the pruned model, in order, given its index and
                whether blocks were cut beside it.
            said: told how many of the original's blocks are done.
        """
        mended: list[Mended] = []
        self._advance_original(range(kept[0]), said)
        same = kept[0] == 0
        for index, (own, following) in enumerate(zip(kept, [*kept[1:], depth], strict=True)):
            cut = following - own > 1 or (index == 0 and own > 0)
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
        """Fit a projection of a block so that the block gives what the original has now."""
        module: Any = self._pruned.get_submodule(projection.module)
        fitted, checked = self._moments(index, projection, module)
        inputs = fitted.second.shape[0]
        penalised = torch.ones(inputs, dtype=torch.float64, device=fitted.second.device)
        if module.bias is not None:
            penalised[-1] = 0.0
        found = fit(fitted, checked, penalised)
        before, weight = checked.error, module.weight.clone()
        bias = None if module.bias is None else module.bias.clone()
        for share in SHARES:
            _fold(module, share * found.change, transposed=projection.transposed)
            error = self._checked_error(index, projection)
            if error < before:
                return Mended(index, projection.module, found.ridge, share, error / before)
            module.weight.copy_(weight)
            if bias is not None:
                module.bias.copy_(bias)
        return Mended(index, projection.module, None, 0.0, 1.0)

    def _checked_error(self, index: int, projection: OutputProjection) -> float:
        """The weighted squared error on the batches that choose the ridge, as the block is now."""
        total = 0.0
        for number, (state, target) in enumerate(self._pairs()):
            if _is_checked(number, len(self._streams)):
                after = self._step(self._stacks[1], index, state)
                errors, weights = self._errors(projection, after, target)
                total += float((errors.double().square().sum(1) * weights).sum())
        return total

    def _pairs(self) -> list[tuple[State, State]]:
        """For each batch what the pruned model has, and what it should have after its next block."""
        return list(zip(self._pruned_streams, self._streams, strict=True))

    def _errors(self, projection: OutputProjection, after: State, target: State) -> tuple[Tensor, Tensor]:
        """What an output lacks, shape (tokens, width), and the tokens' weights, shape (tokens,)."""
        wanted = self._stacks[0].stream(target).flatten(0, -2).float()
        errors = (wanted - self._stacks[1].stream(after).flatten(0, -2).float()) / projection.factor
        smallest = torch.finfo(torch.float32).tiny
        return errors, wanted.norm(dim=1).clamp_min(smallest) ** -self._weight_power

    def _moments(self, index: int, projection: OutputProjection, module: Any) -> tuple[Moments, Moments]:
        """Of the batches that are fitted, and of those that choose the ridge."""
        inputs = module.weight.numel() // (outputs := _outputs(module, projection)) + (
            module.bias is not None
        )
        sums = tuple(Moments(inputs, outputs, module.weight.device) for _ in range(2))
        for number, (state, target) in enumerate(self._pairs()):
            with _inputs_of(module) as given:
                after = self._step(self._stacks[1], index, state)
            errors, weights = self._errors(projection, after, target)
            activations = given[0].reshape(len(errors), -1).float()
            if module.bias is not None:
                activations = torch.cat([activations, torch.ones_like(activations[:, :1])], dim=1)
            sums[_is_checked(number, len(self._streams))].add(activations, errors, weights)
        return sums[0], sums[1]


def _is_checked(number: int, batches: int) -> bool:
    """Whether a batch chooses the ridge: every eighth, the last of fewer."""
    return number % CHECKED_SHARE == CHECKED_SHARE - 1 or (batches < CHECKED_SHARE and number == batches - 1)


def _outputs(module: Any, projection: OutputProjection) -> int:
    return int(module.weight.shape[1 if projection.transposed else 0])


def _fold(module: Any, change: Tensor, *, transposed: bool) -> None:
    """Add a change to a module's weight and bias, in float64, and store it in their own format."""
    inputs = len(change) - (module.bias is not None)
    weight = change[:inputs] if transposed else change[:inputs].t()
    module.weight.copy_((module.weight.double() + weight).to(module.weight.dtype))
    if module.bias is not None:
        module.bias.copy_((module.bias.double() + change[-1]).to(module.bias.dtype))


@contextmanager
def _inputs_of(module: nn.Module) -> Iterator[list[Tensor]]:
    """What a module is given while the context is open."""
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
