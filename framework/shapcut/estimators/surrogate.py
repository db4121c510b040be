"""The default estimator: a quadratic surrogate with closed-form contributions."""

from collections.abc import Callable
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from shapcut.estimators.base import Estimator, finite, held_out_fidelity
from shapcut.estimators.quadratic import QuadraticSurrogate
from shapcut.estimators.sampling import GuidedSampler, Sampler, not_among, removable
from shapcut.game.budget import BudgetedGame
from shapcut.game.coalitions import CoalitionMatrix, Values, keys, without
from shapcut.game.contributions import Contributions, Refit
from shapcut.game.game import Game
from shapcut.support.errors import InputError, ShapcutError


class SurrogateEstimator(Estimator):
    """Our default: a quadratic surrogate with closed-form Shapley values, fitted where it matters.

    All players, then each player's absence alone, then coalitions near the number of players to remove
    whose absent members looked harmless alone.

    Players that are not removable get NaN, as from `ExactEstimator`.

    Args:
        weighting: ``shapley`` reports the surrogate's Shapley values; ``target`` the mean marginal
            contribution where as many other players are absent as will be removed (a weighted Banzhaf value),
            which needs no extrapolation beyond the measured coalitions.
        share: part of the budget to spend; the rest is left to a selector that measures candidates. None is
            a half if players are to be removed, and all of it if only contributions are wanted.
        focus: see `QuadraticSurrogate`.
        sampler: where to look after the single absences; None looks near the target.
    """

    name = "surrogate"

    def __init__(
        self,
        weighting: Literal["shapley", "target"] = "shapley",
        share: float | None = None,
        focus: float | None = None,
        sampler: Sampler | None = None,
    ) -> None:
        if share is not None and not 0.0 < share <= 1.0:
            raise ValueError(f"share={share} is not in (0, 1]")
        QuadraticSurrogate(focus)  # refuses a wrong focus before any work
        self.weighting = weighting
        self.share = share
        self.focus = focus
        self.sampler = sampler

    def estimate(
        self, game: Game, budget: int, rng: np.random.Generator, *, n_remove: int | None = None
    ) -> Contributions:
        """See `Estimator.estimate`; at least one evaluation a player is needed.

        Raises:
            ShapcutError: if no coalition has a finite value.
        """
        counted = BudgetedGame(game, budget)
        candidates = removable(game.players)
        largest = n_remove or max(2, len(candidates) // 4)
        minimum = len(candidates) + 1
        if budget < minimum:
            raise InputError(
                f"estimator 'surrogate' needs a budget of at least {minimum} coalitions here, got {budget}"
            )
        singles = without(game.n_players, [(), *([player] for player in candidates.tolist())])
        values = counted.values(singles)
        damage = np.zeros(game.n_players)
        known = np.where(np.isfinite(values), values, np.nan)
        damage[candidates] = known[0] - known[1:]
        sampler = self.sampler or GuidedSampler(damage, min(largest + 1, len(candidates)))
        share = self.share or (1.0 if n_remove is None else 0.5)
        wanted = max(0, max(minimum, round(share * budget)) - counted.spent)
        drawn = sampler.sample(game.players, wanted + len(singles), rng)
        counted.values(not_among(drawn, set(keys(singles)))[:wanted])
        return self._contributions(counted, sampler, rng, largest / max(1, len(candidates)))

    def _contributions(
        self, game: BudgetedGame, sampler: Sampler, rng: np.random.Generator, absence: float
    ) -> Contributions:
        coalitions, measured = game.evaluated()
        usable, values = finite(coalitions, measured)
        if not len(values):
            raise ShapcutError(f"none of {len(measured)} coalitions has a finite value: nothing to fit")
        surrogate = QuadraticSurrogate(self.focus).fit(usable, values)
        means, errors = surrogate.contributions(
            0.5 if self.weighting == "shapley" else absence, removable(game.players)
        )
        kind = (
            "Shapley values of the quadratic surrogate"
            if self.weighting == "shapley"
            else f"mean marginals of the quadratic surrogate with {absence:.0%} of the players absent"
        )
        return Contributions(
            values=means,
            standard_errors=errors,
            weighting=f"{kind}, fitted to {sampler.weighting}",
            estimator=self.name,
            full_value=float(measured[0]) if np.isfinite(measured[0]) else None,
            coalitions=coalitions,
            measured=measured,
            fidelity=held_out_fidelity(lambda: QuadraticSurrogate(self.focus), usable, values, rng),
            interactions=surrogate.coefficients()[1],
            surrogate=surrogate,
            refit=refit_quadratic(
                surrogate,
                coalitions,
                lambda fitted: fitted.contributions(
                    0.5 if self.weighting == "shapley" else absence, removable(game.players)
                )[0],
            ),
        )


def refit_quadratic(
    surrogate: QuadraticSurrogate,
    coalitions: CoalitionMatrix,
    contributions: Callable[[QuadraticSurrogate], NDArray[np.float64]],
) -> Refit:
    """Contributions of a surrogate with the same prior, fitted to other values of these coalitions."""

    def refit(values: Values, rng: np.random.Generator | None) -> NDArray[np.float64] | None:
        rows = np.arange(len(values)) if rng is None else rng.integers(len(values), size=len(values))
        usable, known = finite(coalitions[rows], values[rows])
        if not len(known):
            return None
        return contributions(QuadraticSurrogate(surrogate.focus).fit(usable, known, surrogate.scales))

    return refit
