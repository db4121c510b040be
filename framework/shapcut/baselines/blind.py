"""Estimators that do not look at the game: the least that a method has to beat."""

import numpy as np

from shapcut.baselines.scores import protected, scored
from shapcut.estimators.base import Estimator
from shapcut.game.contributions import Contributions
from shapcut.game.game import Game


class NoEstimator(Estimator):
    """Knows nothing of any player: for selectors that measure for themselves."""

    name = "none"

    def estimate(
        self,
        game: Game,
        budget: int,  # noqa: ARG002 - nothing is measured
        rng: np.random.Generator,  # noqa: ARG002 - nothing is random
        *,
        n_remove: int | None = None,  # noqa: ARG002 - nor local
    ) -> Contributions:
        """NaN for every player."""
        values = np.full(game.n_players, np.nan)
        return scored(game.players, values, estimator=self.name, weighting="nothing was estimated")


class RandomEstimator(Estimator):
    """A random order of the players."""

    name = "random"

    def estimate(
        self,
        game: Game,
        budget: int,  # noqa: ARG002 - nothing is measured
        rng: np.random.Generator,
        *,
        n_remove: int | None = None,  # noqa: ARG002 - a random order serves any number
    ) -> Contributions:
        """Ranks drawn uniformly."""
        values = rng.permutation(game.n_players).astype(np.float64)
        return scored(game.players, values, estimator=self.name, weighting="ranks drawn at random")


class LastEstimator(Estimator):
    """The deeper, the sooner a player goes.

    Args:
        keep_last: how many of the last players go after all others; with 1 this is the simple strategy of
            Gromov et al. (arXiv 2403.17887, section 4.4).
    """

    name = "last-n"

    def __init__(self, keep_last: int = 0) -> None:
        protected(keep_last, 0, keep_last)
        self.keep_last = keep_last

    def estimate(
        self,
        game: Game,
        budget: int,  # noqa: ARG002 - nothing is measured
        rng: np.random.Generator,  # noqa: ARG002 - nothing is random
        *,
        n_remove: int | None = None,  # noqa: ARG002 - one order serves any number
    ) -> Contributions:
        """The number of players that run after it, turned round."""
        depth = np.arange(game.n_players, 0, -1, dtype=np.float64)
        values = depth * protected(game.n_players, 0, self.keep_last)
        return scored(game.players, values, estimator=self.name, weighting="position: the last go first")
