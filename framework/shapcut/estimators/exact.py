"""Exact Shapley values of small games."""

from math import comb

import numpy as np
from numpy.typing import NDArray

from shapcut.estimators.base import EstimationProblem, Estimator
from shapcut.game.coalitions import CoalitionMatrix, Values, all_coalitions
from shapcut.game.contributions import Contributions
from shapcut.support.errors import InputError, ShapcutError

EXACT_LIMIT = 16


class ExactEstimator(Estimator):
    """Shapley values from all coalitions of at most 16 removable players (Shapley, 1953)."""

    name = "exact"

    def estimate(self, problem: EstimationProblem) -> Contributions:
        """Enumerate all coalitions; players that are not removable get NaN.

        Raises:
            ShapcutError: if a coalition has no finite value.
        """
        candidates = problem.candidates
        n = len(candidates)
        if n > EXACT_LIMIT:
            raise InputError(f"estimator 'exact' takes at most {EXACT_LIMIT} players, the game has {n}")
        problem.require_budget(1 << n, self.name)
        inner = all_coalitions(n)
        coalitions = np.ones((len(inner), problem.n_players), dtype=np.bool_)
        coalitions[:, candidates] = inner
        values = problem.game.values(coalitions)
        if not np.isfinite(values).all():
            bad = int((~np.isfinite(values)).sum())
            raise ShapcutError(f"{bad} of {len(values)} coalitions have no finite value: no exact answer")

        def refit(others: Values, rng: np.random.Generator | None) -> NDArray[np.float64] | None:
            return None if rng else problem.spread(exact_shapley_values(inner, others))

        contributions = problem.spread(exact_shapley_values(inner, values))
        return Contributions(
            values=contributions,
            standard_errors=np.where(np.isnan(contributions), np.nan, 0.0),
            weighting="the Shapley weights, all coalitions",
            estimator=self.name,
            full_value=float(values[-1]),
            coalitions=coalitions,
            measured=values,
            refit=refit,
        )


def exact_shapley_values(coalitions: CoalitionMatrix, values: Values) -> NDArray[np.float64]:
    """Shapley values from the values of all coalitions, in the order of `all_coalitions`.

    ``phi_i = sum over S without i of |S|! (n-|S|-1)! / n! * (v(S + i) - v(S))``.
    """
    n = coalitions.shape[1]
    sizes = coalitions.sum(axis=1)
    weights = np.array([1.0 / (n * comb(n - 1, size)) for size in range(n)])
    rows = np.arange(len(values))
    contributions = np.empty(n)
    for player in range(n):
        lacking = rows[~coalitions[:, player]]
        marginal = values[lacking + (1 << player)] - values[lacking]
        contributions[player] = weights[sizes[lacking]] @ marginal
    return contributions
