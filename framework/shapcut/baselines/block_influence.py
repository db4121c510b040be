"""Block influence: how much a block turns the hidden state."""

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - the name that PyTorch's users know
from torch import Tensor

from shapcut.baselines.scores import scored
from shapcut.estimators.base import Estimator
from shapcut.game.contributions import Contributions
from shapcut.game.game import Game
from shapcut.valuation.model_access import require_access
from shapcut.valuation.residual_stream import boundaries


class BlockInfluenceEstimator(Estimator):
    """One minus the mean cosine between what enters a block and what leaves it, from one forward pass.

    Source: ShortGPT, Men et al., arXiv 2403.03853, equation 1. Standard errors are over windows.
    """

    name = "block-influence"

    def estimate(
        self,
        game: Game,
        budget: int,  # noqa: ARG002 - no coalition is measured
        rng: np.random.Generator,  # noqa: ARG002 - nothing is random
        *,
        n_remove: int | None = None,  # noqa: ARG002 - one order serves any number
    ) -> Contributions:
        """See `Estimator.estimate`.

        Raises:
            InputError: if there is no model behind the game.
        """
        access = require_access(game, f"estimator {self.name!r}")
        cosines: list[list[Tensor]] = [[] for _ in game.players]
        previous = torch.empty(0)
        for passed, stream in boundaries(access):
            if passed:
                cosines[passed - 1].append(mean_cosine(previous, stream))
            previous = stream
        windows = np.array([torch.cat(parts).cpu().numpy() for parts in cosines])
        count = windows.shape[1]
        errors = windows.std(axis=1, ddof=1) / np.sqrt(count) if count > 1 else None
        return scored(
            game.players,
            1.0 - windows.mean(axis=1),
            errors=errors,
            estimator=self.name,
            weighting="1 - cosine of a block's input and output, mean over tokens; no coalition was measured",
        )


def mean_cosine(before: Tensor, after: Tensor) -> Tensor:
    """Cosine of hidden states, mean over the tokens of each window: (windows, ..., width) -> (windows,)."""
    return F.cosine_similarity(before.double(), after.double(), dim=-1).flatten(1).mean(dim=1)
