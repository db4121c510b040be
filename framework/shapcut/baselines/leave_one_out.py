"""Leave-one-out: the loss of value when each player alone is absent."""

import numpy as np

from shapcut.estimators.base import EstimationProblem, Estimator
from shapcut.estimators.surrogate import single_absences
from shapcut.game.budget import BudgetedGame
from shapcut.game.coalitions import finite_or_none
from shapcut.game.contributions import Contributions


class LeaveOneOutEstimator(Estimator):
    """The value of all players minus the value without one: the perplexity criterion of Shortened LLaMA.

    Source: Kim et al., arXiv 2402.02834, section 3.1. With the utility ``log-likelihood`` or
    ``perplexity-ratio`` the ranking equals that of the perplexities.
    """

    name = "leave-one-out"
    handles_groups = True

    def estimate(self, problem: EstimationProblem) -> Contributions:
        """See `Estimator.estimate`; measures one coalition per removable player, and all players."""
        singles = single_absences(problem)
        problem.require_budget(len(singles), self.name)
        counted = BudgetedGame(problem.game, problem.budget)
        values = counted.values(singles)
        losses = problem.spread(values[0] - values[1:])
        coalitions, measured = counted.evaluated()
        return Contributions(
            values=losses,
            standard_errors=np.where(np.isnan(losses), np.nan, 0.0),
            weighting="the loss of value when only this player is absent; not the Shapley weights",
            estimator=self.name,
            full_value=finite_or_none(values[0]),
            coalitions=coalitions,
            measured=measured,
        )
