"""Whether replaying recorded calls gives what the model itself gives, found out once per model."""

import torch
from torch import Tensor

from shapcut.contracts import State
from shapcut_adapters.transformers.recorded_stack import RecordedStack

AbsentLogits = dict[frozenset[int], Tensor]


def replays_exactly(stack: RecordedStack, input_ids: Tensor, expected: AbsentLogits) -> bool:
    """Whether a stack reproduces logits that were made without it.

    Args:
        stack: what is tried.
        input_ids: tokens, shape (batch, length).
        expected: logits by absent players; the effect of the absences gives the scale of the tolerance,
            which is the square root of the number format's precision.
    """
    full = expected[frozenset()]
    effect = max(float((logits - full).abs().max()) for logits in expected.values())
    tolerance = torch.finfo(full.dtype).eps ** 0.5 * effect
    try:
        replayed = {absent: replay(stack, input_ids, absent) for absent in expected}
    except (RuntimeError, ValueError, IndexError):  # a recorded argument that does not fit this batch
        return False
    return all(float((replayed[key] - logits).abs().max()) <= tolerance for key, logits in expected.items())


def replay(stack: RecordedStack, input_ids: Tensor, absent: frozenset[int]) -> Tensor:
    """Logits of a whole batch by a stack, as many sequences at a time as it takes."""
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
