"""Where the blocks of a cut model begin in the original."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import pairwise

from shapcut.contracts import InputError


@dataclass(frozen=True, slots=True)
class CutBlocks:
    """The blocks of a cut model, counted as in the original.

    Attributes:
        starts: for each block of the cut model, the block of the original that it begins with.
        depth: number of the original's blocks.
        changed: blocks of the cut model that do less than the original does up to where the next one begins.
    """

    starts: tuple[int, ...]
    depth: int
    changed: frozenset[int]

    @staticmethod
    def of(stages: Sequence[range], absent: Collection[int], left: int) -> "CutBlocks":
        """The blocks that are left.

        Where only whole blocks are gone, each one left begins a block of the cut model. Otherwise each one
        that keeps its first player does, the attention, and the MLPs of others belong to the one before.

        Args:
            stages: the players of each block of the original, in execution order.
            absent: the players that were removed.
            left: number of the cut model's blocks.

        Raises:
            InputError: if the players do not say where that many blocks begin.
        """
        gone = set(absent)
        lost = [bool(gone.intersection(stage)) for stage in stages]
        staying = [index for index, stage in enumerate(stages) if not stage or not gone.issuperset(stage)]
        leading = [index for index in staying if not stages[index] or stages[index][0] not in gone]
        starts = next((found for found in (staying, leading) if len(found) == left), None)
        if not starts:
            raise InputError(f"{left} blocks are left, and the players do not say where each of them begins")
        ends = pairwise([0, *starts[1:], len(stages)])
        changed = frozenset(place for place, (begin, end) in enumerate(ends) if any(lost[begin:end]))
        return CutBlocks(tuple(starts), len(stages), changed)
