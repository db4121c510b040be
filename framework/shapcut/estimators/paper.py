"""The paper's estimator (arXiv 2602.07804): stratified masks, a surrogate network, Monte-Carlo marginals."""

import numpy as np
import torch
from numpy.typing import NDArray

from shapcut.estimators.base import EstimationProblem, Estimator, finite, held_out_fidelity
from shapcut.estimators.network import NetworkSurrogate
from shapcut.estimators.sampling import StratifiedSampler
from shapcut.game.budget import BudgetedGame
from shapcut.game.coalitions import Values, finite_or_none
from shapcut.game.contributions import Contributions
from shapcut.support.errors import InputError

_FEWEST_USABLE = 10


class PaperEstimator(Estimator):
    """The paper's method without the errors that docs/method.md lists.

    Masks of fixed sizes (30, 27, 24, 21 and 18 of 32 layers, scaled to the depth) train a small network;
    a player's contribution is the network's mean marginal over many stratified masks. Players that are not
    removable get NaN.

    Args:
        surrogate_masks: masks to average marginals over.
        bootstraps: networks trained on resampled masks for the standard errors.
        sizes: coalition sizes; None scales the paper's.
    """

    name = "paper"

    def __init__(
        self, surrogate_masks: int = 80_000, bootstraps: int = 8, sizes: tuple[int, ...] | None = None
    ) -> None:
        self.surrogate_masks = surrogate_masks
        self.bootstraps = bootstraps
        self.sampler = StratifiedSampler(sizes, generations=0)

    def estimate(self, problem: EstimationProblem) -> Contributions:
        """See `Estimator.estimate`; the whole budget goes into stratified masks."""
        game, budget, rng = problem.game, problem.budget, problem.rng
        counted = BudgetedGame(game, budget)
        masks = self.sampler.sample(game.players, budget - 1, rng)
        values = counted.values(np.vstack([np.ones((1, game.n_players), dtype=np.bool_), masks]))
        coalitions, usable = finite(masks, values[1:])
        if len(usable) < _FEWEST_USABLE:
            raise InputError(
                f"estimator 'paper' has only {len(usable)} usable masks; raise --budget {budget}"
            )
        generator = torch.Generator().manual_seed(int(rng.integers(2**63)))
        network = NetworkSurrogate(generator).fit(coalitions, usable)
        averaged = self.sampler.draw(game.players, self.surrogate_masks, rng)
        resampled = []
        for _ in range(self.bootstraps):
            rows = rng.integers(len(usable), size=len(usable))
            again = NetworkSurrogate(generator).fit(coalitions[rows], usable[rows])
            resampled.append(again.mean_marginals(averaged[: max(1, len(averaged) // 10)]))
        errors = np.std(resampled, axis=0, ddof=1) if self.bootstraps > 1 else np.full(game.n_players, np.nan)

        def refit(others: Values, again: np.random.Generator | None) -> NDArray[np.float64] | None:
            if again is not None:
                return None  # the standard errors come from resamples already
            inner, known = finite(masks, others[1:])
            network = NetworkSurrogate(torch.Generator().manual_seed(0)).fit(inner, known)
            return defined * network.mean_marginals(averaged[: max(1, len(averaged) // 10)])

        defined = np.where([player.removable for player in game.players], 1.0, np.nan)
        evaluated, measured = counted.evaluated()
        return Contributions(
            values=defined * network.mean_marginals(averaged),
            standard_errors=defined * errors,
            weighting=f"mean marginals of the network, {self.sampler.weighting}",
            estimator=self.name,
            full_value=finite_or_none(values[0]),
            coalitions=evaluated,
            measured=measured,
            fidelity=held_out_fidelity(
                lambda: NetworkSurrogate(generator), coalitions, usable, rng, n_remove=problem.n_remove
            ),
            surrogate=network,
            refit=refit,
        )
