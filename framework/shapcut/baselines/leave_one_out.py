"""Leave-one-out: what the value loses when each player alone is absent."""

import numpy as np

from shapcut.estimators.base import Estimator
from shapcut.estimators.sampling import removable
from shapcut.game.budget import BudgetedGame
from shapcut.game.coalitions import without
from shapcut.game.contributions import Contributions
from shapcut.game.game import Game
from shapcut.support.errors import InputError


class LeaveOneOutEstimator(Estimator):
    """Value of all players minus the value without one: the perplexity criterion of Shortened LLaMA.

    Source: Kim et al., arXiv 2402.02834, section 3.1. With the utility ``log-likelihood`` or
    ``perplexity-ratio`` the order is that of the perplexities.
    """

    name = "leave-one-out"

    def estimate(
        self,
        game: Game,
        budget: int,
        rng: np.random.Generator,  # noqa: ARG002 - nothing is random here
        *,
        n_remove: int | None = None,  # noqa: ARG002 - players are looked at one by one
    ) -> Contributions:
        """One evaluation a removable player, and one of all players."""
        candidates = removable(game.players)
        if budget < len(candidates) + 1:
            raise InputError(
                f"estimator {self.name!r} needs a budget of {len(candidates) + 1} coalitions, got {budget}"
            )
        counted = BudgetedGame(game, budget)
        values = counted.values(without(game.n_players, [(), *([one] for one in candidates.tolist())]))
        losses = np.full(game.n_players, np.nan)
        losses[candidates] = values[0] - values[1:]
        coalitions, measured = counted.evaluated()
        return Contributions(
            values=losses,
            standard_errors=np.where(np.isnan(losses), np.nan, 0.0),
            weighting="the loss of value when a player alone is absent; not the Shapley weights",
            estimator=self.name,
            full_value=float(values[0]) if np.isfinite(values[0]) else None,
            coalitions=coalitions,
            measured=measured,
        )
