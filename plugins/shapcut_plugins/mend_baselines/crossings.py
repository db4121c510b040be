"""The original's residual stream where it enters and leaves the removed blocks."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from shapcut.contracts import Adapter, InputError, OutputProjection
from shapcut_plugins.mend_baselines.cuts import Cut

_TOKENS_PER_STEP = 4096


@dataclass(frozen=True, slots=True)
class Crossing:
    """One batch at one cut, in float32.

    Attributes:
        cut: index of the cut.
        before: the stream that enters the removed blocks, shape (windows, length, width).
        after: the stream that leaves them, of the same shape.
        given: inputs of the watched projection, shape (windows * length, inputs); empty if none is watched.
        added: what that projection adds to the stream, shape (windows * length, width).
    """

    cut: int
    before: Tensor
    after: Tensor
    given: Tensor
    added: Tensor


def crossings(
    adapter: Adapter,
    original: nn.Module,
    windows: Tensor,
    cuts: Sequence[Cut],
    watched: Mapping[int, OutputProjection] | None = None,
) -> Iterator[Crossing]:
    """Run the original block by block and yield each cut of each batch.

    Args:
        adapter: of the original.
        original: the whole model.
        windows: token ids, shape (windows, length).
        cuts: where to look, in order.
        watched: by cut, a projection of the original's block before it.

    Raises:
        InputError: if the model cannot be run block by block.
    """
    stack = adapter.stack(original)
    if stack is None:
        raise InputError(f"{type(original).__name__} cannot be run block by block")
    rows = stack.batch_size or max(1, _TOKENS_PER_STEP // windows.shape[1])
    for batch in torch.split(windows.to(adapter.input_device(original)), rows):
        state, block = stack.prelude(batch), 0
        for number, cut in enumerate(cuts):
            seen = None if watched is None else watched.get(number)
            with _calls_of(original, seen) as calls:
                for index in range(block, cut.entry):
                    state = stack.step(index, state)
            before, block = stack.stream(state).float(), cut.exit
            for index in range(cut.entry, cut.exit):
                state = stack.step(index, state)
            given = added = before.new_empty(0)
            if seen is not None:
                inputs, output = calls[-1]
                given = inputs.reshape(before.shape[:-1].numel(), -1).float()
                added = seen.factor * output.reshape(len(given), -1).float()
            yield Crossing(number, before, stack.stream(state).float(), given, added)


@contextmanager
def _calls_of(model: nn.Module, projection: OutputProjection | None) -> Iterator[list[tuple[Tensor, Tensor]]]:
    """Record inputs and outputs of a module while the context is open."""
    calls: list[tuple[Tensor, Tensor]] = []
    if projection is None:
        yield calls
        return
    handle = model.get_submodule(projection.module).register_forward_hook(
        lambda _module, args, output: calls.append((args[0], output.clone()))
    )
    try:
        yield calls
    finally:
        handle.remove()
