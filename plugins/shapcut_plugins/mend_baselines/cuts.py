"""The places where consecutive blocks were removed."""

from collections.abc import Sequence
from dataclasses import dataclass

from shapcut.contracts import RemovalPlan


@dataclass(frozen=True, slots=True)
class Cut:
    """A run of consecutive removed blocks.

    Attributes:
        entry: the first of them, of the original.
        exit: the first block after them, of the original.
        before: the block before them, of the pruned model; -1 if they were the first ones.
    """

    entry: int
    exit: int
    before: int


def cuts_of(plan: RemovalPlan) -> tuple[Cut, ...]:
    """The cuts of a plan, in order."""
    depth = len(plan.kept) + len(plan.removed)
    edges: Sequence[int] = (-1, *plan.kept, depth)
    return tuple(
        Cut(edges[place] + 1, edges[place + 1], place - 1)
        for place in range(len(edges) - 1)
        if edges[place + 1] - edges[place] > 1
    )
