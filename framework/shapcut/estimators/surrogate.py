"""The default estimator: a quadratic surrogate with closed-form contributions."""

from collections.abc import Callable
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from shapcut.estimators.base import EstimationProblem, Estimator, finite, held_out_fidelity
from shapcut.estimators.main_effects import MOST_PLAYERS_WITH_PAIRS, MainEffects
from shapcut.estimators.quadratic import QuadraticSurrogate
from shapcut.estimators.sampling import GuidedSampler, Sampler, not_among, removable
from shapcut.game.budget import BudgetedGame
from shapcut.game.coalitions import CoalitionMatrix, Values, finite_or_none, keys, without
from shapcut.game.contributions import Contributions, Refit
from shapcut.game.groups import Groups
from shapcut.support.errors import ShapcutError


class SurrogateEstimator(Estimator):
    """The default: a quadratic surrogate with closed-form Shapley values, fitted near the target.

    Measures all players together, then each player absent alone, then coalitions near the target size that
    prefer to leave out players whose absence alone costs little. Players that are not removable get NaN.

    With more than 512 players, or where single absences would take most of the budget of players that have
    groups, it measures no single absences, fits main effects only (`MainEffects`) to coalitions near the
    target, and prefers to leave out players whose first evidence is low. A contribution is then a ridge
    estimate: fewer coalitions than players cannot tell all of them apart.

    Args:
        weighting: ``shapley`` reports the surrogate's Shapley values; ``target`` the mean marginal
            contribution with as many other players absent as will be removed (a weighted Banzhaf value),
            which does not extrapolate beyond the measured coalitions.
        share: fraction of the budget to spend; a selector may spend the rest. None is one half if
            ``n_remove`` is known, else everything.
        focus: see `QuadraticSurrogate`.
        sampler: draws the coalitions after the single absences; None draws near the target.
    """

    name = "surrogate"
    handles_groups = True

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

        Of main effects, one coalition is enough.

        Raises:
            ShapcutError: if no coalition has a finite value.
        """
        counted, candidates = BudgetedGame(problem.game, problem.budget), problem.candidates
        largest = problem.n_remove or max(2, len(candidates) // 4)
        if self._without_pairs(problem):
            return self._main_effects(problem, counted, largest)
        singles = single_absences(problem)
        problem.require_budget(len(singles), self.name)
        values = counted.values(singles)
        damage = np.zeros(problem.n_players)
        known = np.where(np.isfinite(values), values, np.nan)
        damage[candidates] = known[0] - known[1:]
        sampler = self.sampler or GuidedSampler(damage, min(largest + 1, len(candidates)))
        wanted = max(0, max(len(singles), round(self._share(problem) * problem.budget)) - counted.spent)
        drawn = sampler.sample(problem.players, wanted + len(singles), problem.rng)
        counted.values(not_among(drawn, set(keys(singles)))[:wanted])
        return self._contributions(counted, sampler, problem.rng, largest / max(1, len(candidates)))

    def _share(self, problem: EstimationProblem) -> float:
        return self.share or (1.0 if problem.n_remove is None else 0.5)

    def _without_pairs(self, problem: EstimationProblem) -> bool:
        """Whether there are too many players for pairs, or for single absences."""
        singles, spend = len(problem.candidates) + 1, self._share(problem) * problem.budget
        grouped = len(Groups.of(problem.players)) > 1
        return problem.n_players > MOST_PLAYERS_WITH_PAIRS or (grouped and 2 * singles > spend)

    def _main_effects(self, problem: EstimationProblem, counted: BudgetedGame, largest: int) -> Contributions:
        """Measure all players, then coalitions near the target; fit one effect for each player."""
        evidence = None if problem.first_evidence is None else problem.first_evidence()
        everyone = without(problem.n_players, [()])
        counted.values(everyone)
        damage = np.zeros(problem.n_players) if evidence is None else evidence
        sampler = self.sampler or GuidedSampler(damage, largest)
        wanted = max(1, round(self._share(problem) * problem.budget)) - counted.spent
        drawn = sampler.sample(problem.players, wanted + 1, problem.rng)
        counted.values(not_among(drawn, set(keys(everyone)))[:wanted])
        coalitions, measured = counted.evaluated()
        usable, values = finite(coalitions, measured)
        if not len(values):
            raise ShapcutError(f"none of {len(measured)} coalitions has a finite value: nothing to fit")
        surrogate = MainEffects(evidence).fit(usable, values)
        chosen = problem.candidates
        return Contributions(
            values=problem.spread(surrogate.contributions()[chosen]),
            standard_errors=problem.spread(surrogate.standard_errors()[chosen]),
            weighting=f"main effects, ridge estimates fitted to {sampler.weighting}",
            estimator=self.name,
            full_value=finite_or_none(measured[0]),
            coalitions=coalitions,
            measured=measured,
            fidelity=held_out_fidelity(lambda: MainEffects(evidence), usable, values, problem.rng),
            surrogate=surrogate,
            refit=refit_effects(problem, evidence, coalitions),
        )

    def _contributions(
        self, game: BudgetedGame, sampler: Sampler, rng: np.random.Generator, absence: float
    ) -> Contributions:
        coalitions, measured = game.evaluated()
        usable, values = finite(coalitions, measured)
        if not len(values):
            raise ShapcutError(f"none of {len(measured)} coalitions has a finite value: nothing to fit")
        surrogate = QuadraticSurrogate(self.focus).fit(usable, values)
        at = 0.5 if self.weighting == "shapley" else absence
        candidates = removable(game.players)
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
                lambda: QuadraticSurrogate(self.focus, surrogate.scales), usable, values, rng
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


def refit_effects(
    problem: EstimationProblem, evidence: NDArray[np.float64] | None, coalitions: CoalitionMatrix
) -> Refit:
    """A refit of main effects to other values."""

    def refit(values: Values, rng: np.random.Generator | None) -> NDArray[np.float64] | None:
        rows = np.arange(len(values)) if rng is None else rng.integers(len(values), size=len(values))
        usable, known = finite(coalitions[rows], values[rows])
        if not len(known):
            return None
        fitted = MainEffects(evidence).fit(usable, known)
        return problem.spread(fitted.contributions()[problem.candidates])

    return refit


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
