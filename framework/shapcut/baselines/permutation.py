"""Shapley values by permutation sampling."""

import numpy as np
from numpy.typing import NDArray

from shapcut.coalitions import CoalitionMatrix
from shapcut.contributions import Contributions
from shapcut.errors import InputError
from shapcut.estimators import Estimator
from shapcut.game import BudgetedGame, Game
from shapcut.sampling import removable


class PermutationEstimator(Estimator):
    """Mean marginal contributions along random orders: unbiased Shapley values.

    Source: Castro, Gomez and Tejada, "Polynomial calculation of the Shapley value based on sampling",
    Computers & Operations Research 36 (2009). Marginals that are not finite are left out. Players that are
    not removable get NaN, as from `ExactEstimator`.
    """

    name = "permutation"

    def estimate(
        self,
        game: Game,
        budget: int,
        rng: np.random.Generator,
        *,
        n_remove: int | None = None,  # noqa: ARG002 - the Shapley value looks at all sizes
    ) -> Contributions:
        """As many orders as the budget allows; all begin with every player and end with none."""
        candidates = removable(game.players)
        n = len(candidates)
        if budget < n + 1:
            raise InputError(f"estimator {self.name!r} needs a budget of {n + 1} coalitions, got {budget}")
        counted = BudgetedGame(game, budget)
        orders = 1 + (budget - n - 1) // max(1, n - 1)
        marginals = np.full((orders, game.n_players), np.nan)
        for row in marginals:
            order = rng.permutation(candidates)
            values = counted.values(leaving(game.n_players, order))
            row[order] = values[:-1] - values[1:]
        means, errors = _mean_and_error(marginals)
        coalitions, measured = counted.evaluated()
        return Contributions(
            values=means,
            standard_errors=errors,
            weighting=f"the Shapley weights: mean marginals along {orders} random orders",
            estimator=self.name,
            full_value=float(measured[0]) if np.isfinite(measured[0]) else None,
            coalitions=coalitions,
            measured=measured,
        )


def leaving(n_players: int, order: NDArray[np.int64]) -> CoalitionMatrix:
    """All players, all but the first of ``order``, and so on, shape (len(order) + 1, n_players)."""
    coalitions = np.ones((len(order) + 1, n_players), dtype=np.bool_)
    for gone, player in enumerate(order.tolist(), start=1):
        coalitions[gone:, player] = False
    return coalitions


def _mean_and_error(marginals: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and standard error of the finite entries of each column; NaN where there are none, or one."""
    usable = np.isfinite(marginals)
    count = usable.sum(axis=0)
    total = np.where(usable, marginals, 0.0).sum(axis=0)
    means = np.where(count > 0, total / np.maximum(count, 1), np.nan)
    squares = (np.where(usable, marginals - means, 0.0) ** 2).sum(axis=0)
    variance = squares / np.maximum(count - 1, 1) / np.maximum(count, 1)
    return means, np.where(count > 1, np.sqrt(variance), np.nan)
