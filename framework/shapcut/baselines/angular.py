"""Angular distance: the contiguous run of blocks that rotates the hidden state least."""

import math
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - the name that PyTorch's users know
from numpy.typing import NDArray
from torch import Tensor

from shapcut.game.plan import RemovalPlan
from shapcut.selection.base import SelectionProblem, Selector
from shapcut.support.errors import InputError
from shapcut.valuation.model_access import ModelAccess, require_access
from shapcut.valuation.residual_stream import boundaries


class AngularSelector(Selector):
    """The contiguous run with the smallest angular distance between its input and its output.

    Source: Gromov et al., "The Unreasonable Ineffectiveness of the Deeper Layers", arXiv 2403.17887,
    section 3.2. Takes one forward pass and ignores contributions.

    Args:
        keep_last: whether the last block stays, as in the paper.
        tokens: tokens to average distances over: the last of each window, as in the paper, or all.
    """

    name = "angular"

    def __init__(self, keep_last: bool = True, tokens: Literal["last", "all"] = "last") -> None:
        self.keep_last = keep_last
        self.tokens = tokens

    def select(self, problem: SelectionProblem) -> RemovalPlan:
        """See `Selector.select`.

        Raises:
            InputError: if the game has no model, or no run of that length is permitted.
        """
        access = require_access(problem.game, f"selector {self.name!r}")
        n_remove = problem.n_remove
        starts = [
            start
            for start in range(problem.n_players - n_remove + (0 if self.keep_last else 1))
            if problem.permits(range(start, start + n_remove))
        ]
        if not starts:
            raise InputError(
                f"selector {self.name!r}: no run of {n_remove} neighbouring players may be removed"
            )
        distances = angular_distances(access, n_remove, self.tokens)
        start = min(starts, key=lambda start: float(distances[start]))
        chosen = list(range(start, start + n_remove))
        return problem.plan(
            chosen,
            measured_value=problem.known_value(chosen),
            method=self.name,
            reason=f"the smallest angular distance of {len(starts)} runs of {n_remove}, "
            f"{distances[start]:.4f} of a half turn",
        )


def angular_distances(
    access: ModelAccess, length: int, tokens: Literal["last", "all"]
) -> NDArray[np.float64]:
    """Mean angle between the stream before and after each run of blocks, in half turns.

    Args:
        access: the model and its tokens.
        length: blocks in a run.
        tokens: which tokens to average over.

    Returns:
        ``arccos(cosine) / pi``, 0 to 1, by the run's first block, shape (n_players - length + 1,).
    """
    windows: list[list[Tensor]] = []
    waiting: list[Tensor] = []
    for passed, stream in boundaries(access):
        if passed == 0:
            waiting = []
        waiting.append(stream[:, -1:] if tokens == "last" else stream)
        if passed >= length:
            if len(windows) <= passed - length:
                windows.append([])
            windows[passed - length].append(_angles(waiting.pop(0), waiting[-1]))
    return np.array([float(torch.cat(parts).mean()) for parts in windows])


def _angles(before: Tensor, after: Tensor) -> Tensor:
    cosines = F.cosine_similarity(before.double(), after.double(), dim=-1).clamp(-1.0, 1.0)
    return (cosines.acos() / math.pi).flatten(1).mean(dim=1)
