"""The default estimator: a quadratic surrogate with closed-form contributions."""

from collections.abc import Callable
from dataclasses import replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from shapcut.estimators.base import EstimationProblem, Estimator, finite, held_out_fidelity
from shapcut.estimators.quadratic import QuadraticSurrogate
from shapcut.estimators.sampling import GuidedSampler, Sampler, not_among
from shapcut.game.budget import BudgetedGame
from shapcut.game.coalitions import CoalitionMatrix, Values, finite_or_none, keys, without
from shapcut.game.contributions import Contributions, Refit
from shapcut.game.game import Game
from shapcut.support.errors import ShapcutError

PART, SHARE = 4, 0.25
"""Where a search follows: one part in so many of the text is read, and this share of the budget is spent."""


class SurrogateEstimator(Estimator):
    """The default: a quadratic surrogate with closed-form Shapley values, fitted near the target.

    Measures all players together, then each player absent alone, then coalitions near the target size that
    prefer to leave out players whose absence alone costs little. If the target is known, a search follows and
    all are measured on a quarter of the text: which coalitions are known says more about a surrogate than how
    exactly. Their values on all text are estimated by adding what it changes for all players together.
    Players that are not removable get NaN.

    Args:
        weighting: ``shapley`` reports the surrogate's Shapley values; ``target`` the mean marginal
            contribution with as many other players absent as will be removed (a weighted Banzhaf value),
            which does not extrapolate beyond the measured coalitions.
        share: fraction of the budget to spend; a selector may spend the rest. None is everything without
            ``n_remove``, else a quarter, or one half if the game cannot be measured on a part of its text.
        focus: see `QuadraticSurrogate`.
        sampler: draws the coalitions after the single absences; None draws near the target.
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
        QuadraticSurrogate(focus)  # rejects an invalid focus early
        self.weighting = weighting
        self.share = share
        self.focus = focus
        self.sampler = sampler

    def estimate(self, problem: EstimationProblem) -> Contributions:
        """See `Estimator.estimate`; the budget must cover one coalition per removable player, plus one.

        Raises:
            ShapcutError: if no coalition has a finite value.
        """
        whole, candidates = BudgetedGame(problem.game, problem.budget), problem.candidates
        largest = problem.n_remove or max(2, len(candidates) // 4)
        singles = single_absences(problem)
        problem.require_budget(len(singles), self.name)
        game = whole if problem.n_remove is None else whole.narrowed(whole.tokens_of_part(PART))
        values = game.values(singles)
        damage = np.zeros(problem.n_players)
        known = np.where(np.isfinite(values), values, np.nan)
        damage[candidates] = known[0] - known[1:]
        sampler = self.sampler or GuidedSampler(damage, min(largest + 1, len(candidates)))
        wanted = max(0, self._affordable(problem, game, whole) - len(singles))
        drawn = sampler.sample(problem.players, wanted + len(singles), problem.rng)
        game.values(not_among(drawn, set(keys(singles)))[:wanted])
        coalitions, _ = game.evaluated()
        measurements = game.measurements(coalitions)
        if game is not whole:
            measurements += whole.measurements(coalitions[:1]) - measurements[0]
        found = self._contributions(
            coalitions, measurements[:, 0], sampler, problem, largest / max(1, len(candidates))
        )
        return found if game is whole else replace(found, estimated=measurements[1:])

    def _affordable(self, problem: EstimationProblem, game: Game, whole: Game) -> int:
        """How many coalitions the share of the budget pays for, if they are measured in ``game``."""
        if game is whole:
            return round((self.share or (1.0 if problem.n_remove is None else 0.5)) * problem.budget)
        return int((self.share or SHARE) * problem.budget * whole.tokens / game.tokens)

    def _contributions(
        self,
        coalitions: CoalitionMatrix,
        measured: Values,
        sampler: Sampler,
        problem: EstimationProblem,
        absence: float,
    ) -> Contributions:
        usable, values = finite(coalitions, measured)
        if not len(values):
            raise ShapcutError(f"none of {len(measured)} coalitions has a finite value: nothing to fit")
        surrogate = QuadraticSurrogate(self.focus).fit(usable, values)
        at = 0.5 if self.weighting == "shapley" else absence
        candidates = problem.candidates
        means, errors = surrogate.contributions(at, candidates)
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
            full_value=finite_or_none(measured[0]),
            coalitions=coalitions,
            measured=measured,
            fidelity=held_out_fidelity(
                lambda: QuadraticSurrogate(self.focus, surrogate.scales), usable, values, problem.rng
            ),
            interactions=surrogate.coefficients()[1],
            surrogate=surrogate,
            refit=refit_quadratic(
                surrogate,
                coalitions,
                lambda fitted: fitted.mean_contributions(at, candidates),
            ),
        )


def single_absences(problem: EstimationProblem) -> CoalitionMatrix:
    """All players, then each removable player absent alone, shape (n_candidates + 1, n_players)."""
    return without(problem.n_players, [(), *([player] for player in problem.candidates.tolist())])


def refit_quadratic(
    surrogate: QuadraticSurrogate,
    coalitions: CoalitionMatrix,
    contributions: Callable[[QuadraticSurrogate], NDArray[np.float64]],
) -> Refit:
    """A refit: contributions of a surrogate with the same prior, fitted to other values."""

    def refit(values: Values, rng: np.random.Generator | None) -> NDArray[np.float64] | None:
        rows = np.arange(len(values)) if rng is None else rng.integers(len(values), size=len(values))
        usable, known = finite(coalitions[rows], values[rows])
        if not len(known):
            return None
        return contributions(QuadraticSurrogate(surrogate.focus).fit(usable, known, surrogate.scales))

    return refit
