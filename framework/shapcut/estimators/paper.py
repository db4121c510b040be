"""The paper's estimator (arXiv 2602.07804): stratified masks, a surrogate network, Monte-Carlo marginals."""

import numpy as np
import torch
from numpy.typing import NDArray

from shapcut.estimators.base import Estimator, finite, held_out_fidelity
from shapcut.estimators.network import NetworkSurrogate
from shapcut.estimators.sampling import StratifiedSampler
from shapcut.game.budget import BudgetedGame
from shapcut.game.coalitions import CoalitionMatrix, Values
from shapcut.game.contributions import Contributions
from shapcut.game.game import Game
from shapcut.support.errors import InputError

_FEWEST_USABLE = 10


class PaperEstimator(Estimator):
    """The paper's method to the letter but for its faults, which docs/method.md lists.

    Masks of fixed sizes (30, 27, 24, 21 and 18 of 32 layers, scaled to the depth) train a small network;
    a player's contribution is the network's mean marginal over many stratified masks. Players that are not
    removable get NaN, as from `ExactEstimator`.

    Args:
        surrogate_masks: masks over which marginals are averaged.
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

    def estimate(
        self,
        game: Game,
        budget: int,
        rng: np.random.Generator,
        *,
        n_remove: int | None = None,  # noqa: ARG002 - the paper's strata do not depend on it
    ) -> Contributions:
        """See `Estimator.estimate`; the whole budget goes into stratified masks."""
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
        averaged = self._averaging_masks(game, rng)
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
            full_value=float(values[0]) if np.isfinite(values[0]) else None,
            coalitions=evaluated,
            measured=measured,
            fidelity=held_out_fidelity(lambda: NetworkSurrogate(generator), coalitions, usable, rng),
            surrogate=network,
            refit=refit,
        )

    def _averaging_masks(self, game: Game, rng: np.random.Generator) -> CoalitionMatrix:
        return self.sampler.draw(game.players, self.surrogate_masks, rng)
