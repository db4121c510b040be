"""Check that replaying recorded calls reproduces the model, once per model."""

import torch
from torch import Tensor

from shapcut.contracts import State
from shapcut_adapters.transformers.recorded_stack import RecordedStack

AbsentLogits = dict[frozenset[int], Tensor]


def replays_exactly(stack: RecordedStack, input_ids: Tensor, expected: AbsentLogits) -> bool:
    """Whether a stack reproduces reference logits.

    Args:
        stack: the stack to check.
        input_ids: tokens, shape (batch, length).
        expected: logits by absent players; the tolerance is the effect of the absences times the square root
            of the dtype's precision.
    """
    full = expected[frozenset()]
    effect = max(float((logits - full).abs().max()) for logits in expected.values())
    tolerance = torch.finfo(full.dtype).eps ** 0.5 * effect
    try:
        replayed = {absent: replay(stack, input_ids, absent) for absent in expected}
    except (RuntimeError, ValueError, IndexError):  # a recorded argument does not fit this batch
        return False
    return all(float((replayed[key] - logits).abs().max()) <= tolerance for key, logits in expected.items())


def replay(stack: RecordedStack, input_ids: Tensor, absent: frozenset[int]) -> Tensor:
    """Logits of a batch by a stack, in its batch size."""
    state = stack.prelude(input_ids)
    rows = stack.batch_size or len(input_ids)
    parts = []
    for start in range(0, len(input_ids), rows):
        part: State = tuple(tensor[start : start + rows] for tensor in state)
        for index in range(stack.n_layers):
            if index not in absent:
                part = stack.step(index, part)
        parts.append(stack.readout(part))
    return torch.cat(parts)
