"""Baseline estimators that ignore the game."""

import numpy as np

from shapcut.baselines.scores import protected, scored
from shapcut.estimators.base import EstimationProblem, Estimator
from shapcut.game.contributions import Contributions


class NoEstimator(Estimator):
    """Estimates nothing: for selectors that measure sets themselves."""

    name = "none"
    handles_groups = True

    def estimate(self, problem: EstimationProblem) -> Contributions:
        """NaN for every player."""
        values = np.full(problem.n_players, np.nan)
        return scored(problem.players, values, estimator=self.name, weighting="nothing was estimated")


class RandomEstimator(Estimator):
    """A random order of the players."""

    name = "random"
    handles_groups = True

    def estimate(self, problem: EstimationProblem) -> Contributions:
        """Ranks drawn uniformly."""
        values = problem.rng.permutation(problem.n_players).astype(np.float64)
        return scored(problem.players, values, estimator=self.name, weighting="ranks drawn at random")


class LastEstimator(Estimator):
    """Removes the deepest players first.

    Args:
        keep_last: number of last players that are removed after all others; 1 is the simple strategy of
            Gromov et al. (arXiv 2403.17887, section 4.4).
    """

    name = "last-n"

    def __init__(self, keep_last: int = 0) -> None:
        protected(keep_last, 0, keep_last)
        self.keep_last = keep_last

    def estimate(self, problem: EstimationProblem) -> Contributions:
        """The number of players from this one to the first, reversed: the last player scores lowest."""
        depth = np.arange(problem.n_players, 0, -1, dtype=np.float64)
        values = depth * protected(problem.n_players, 0, self.keep_last)
        return scored(problem.players, values, estimator=self.name, weighting="position: the last go first")
