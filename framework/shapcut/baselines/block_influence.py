"""Block influence: how much a block rotates the hidden state."""

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - the name that PyTorch's users know
from torch import Tensor

from shapcut.baselines.scores import scored
from shapcut.estimators.base import EstimationProblem, Estimator
from shapcut.game.contributions import Contributions
from shapcut.valuation.model_access import require_access
from shapcut.valuation.residual_stream import boundaries


class BlockInfluenceEstimator(Estimator):
    """One minus the mean cosine of a block's input and output, from one forward pass.

    Source: ShortGPT, Men et al., arXiv 2403.03853, equation 1. Standard errors are over windows.
    """

    name = "block-influence"

    def estimate(self, problem: EstimationProblem) -> Contributions:
        """See `Estimator.estimate`; measures no coalition.

        Raises:
            InputError: if the game has no model.
        """
        access = require_access(problem.game, f"estimator {self.name!r}")
        cosines: list[list[Tensor]] = [[] for _ in problem.players]
        previous = torch.empty(0)
        for passed, stream in boundaries(access):
            if passed:
                cosines[passed - 1].append(mean_cosine(previous, stream))
            previous = stream
        windows = np.array([torch.cat(parts).cpu().numpy() for parts in cosines])
        count = windows.shape[1]
        errors = windows.std(axis=1, ddof=1) / np.sqrt(count) if count > 1 else None
        return scored(
            problem.players,
            1.0 - windows.mean(axis=1),
            errors=errors,
            estimator=self.name,
            weighting="1 - cosine of a block's input and output, mean over tokens; no coalition was measured",
        )


def mean_cosine(before: Tensor, after: Tensor) -> Tensor:
    """Cosine of hidden states, mean over the tokens of each window: (windows, ..., width) -> (windows,)."""
    return F.cosine_similarity(before.double(), after.double(), dim=-1).flatten(1).mean(dim=1)
