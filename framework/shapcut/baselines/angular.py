"""Angular distance: the run of neighbouring blocks that turns the hidden state least."""

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - the name that PyTorch's users know
from numpy.typing import NDArray
from torch import Tensor

from shapcut.game.coalitions import Player
from shapcut.game.contributions import Contributions
from shapcut.game.game import Game
from shapcut.game.plan import RemovalPlan
from shapcut.selection.base import Selector, known_value, permission, require_removable
from shapcut.support.errors import InputError
from shapcut.valuation.model_access import ModelAccess, require_access
from shapcut.valuation.residual_stream import boundaries


class AngularSelector(Selector):
    """The contiguous run with the smallest angular distance between its input and its output.

    Source: Gromov et al., "The Unreasonable Ineffectiveness of the Deeper Layers", arXiv 2403.17887,
    section 3.2. One forward pass; contributions are not used.

    Args:
        keep_last: whether the last block stays, as there.
        tokens: over which tokens distances are averaged: the last of each window, as there, or all.
    """

    name = "angular"

    def __init__(self, keep_last: bool = True, tokens: Literal["last", "all"] = "last") -> None:
        self.keep_last = keep_last
        self.tokens = tokens

    def select(
        self,
        contributions: Contributions,
        players: Sequence[Player],
        n_remove: int,
        *,
        game: Game | None = None,
        budget: int = 0,
        finals: Sequence[Game] = (),  # noqa: ARG002 - nothing is compared
        rng: np.random.Generator,  # noqa: ARG002 - nothing is random
    ) -> RemovalPlan:
        """See `Selector.select`.

        Raises:
            InputError: if there is no model behind the game, or no permitted run of that length.
        """
        require_removable(players, n_remove)
        access = require_access(game, f"selector {self.name!r}")
        permits = permission(players, game)
        starts = [
            start
            for start in range(len(players) - n_remove + (0 if self.keep_last else 1))
            if permits(range(start, start + n_remove))
        ]
        if not starts:
            raise InputError(
                f"selector {self.name!r}: no run of {n_remove} neighbouring players may be removed"
            )
        distances = angular_distances(access, n_remove, self.tokens)
        start = min(starts, key=lambda start: float(distances[start]))
        chosen = list(range(start, start + n_remove))
        return RemovalPlan.removing(
            chosen,
            len(players),
            measured_value=known_value(chosen, contributions, game, budget),
            full_value=contributions.full_value,
            method=self.name,
            reason=f"of {len(starts)} runs of {n_remove} the one of least angular distance, "
            f"{distances[start]:.4f} of a half turn",
        )


def angular_distances(
    access: ModelAccess, length: int, tokens: Literal["last", "all"]
) -> NDArray[np.float64]:
    """Mean angle between the stream before and after each run of blocks, in half turns.

    Args:
        access: the model and its tokens.
        length: blocks in a run.
        tokens: which tokens are averaged over.

    Returns:
        By the run's first block, shape (n_players - length + 1,): ``arccos(cosine) / pi``, 0 to 1.
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
