"""The default estimator: a quadratic surrogate with closed-form contributions."""

from collections.abc import Callable
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from shapcut.estimators.base import EstimationProblem, Estimator, finite, held_out_fidelity
from shapcut.estimators.main_effects import MOST_PLAYERS_WITH_PAIRS, MainEffects
from shapcut.estimators.quadratic import QuadraticSurrogate
from shapcut.estimators.sampling import GuidedSampler, Sampler, not_among
from shapcut.game.budget import BudgetedGame, MeteredGame
from shapcut.game.coalitions import CoalitionMatrix, Values, distinct, finite_or_none, keys, without
from shapcut.game.contributions import Contributions, Refit
from shapcut.game.game import Game, Measurements
from shapcut.game.groups import Groups
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

    With more than 512 players, or players in groups that have first evidence, or whose single absences would
    take most of the budget, it measures no single absences and fits main effects only (`MainEffects`) to
    coalitions near the target. First evidence may be several scores: the set that each would remove is
    measured on all text, and that of the best set is the evidence of the fit. Coalitions prefer to leave out
    players whose evidence is low. A contribution is then a ridge estimate: fewer coalitions than players
    cannot tell all of them apart.

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
        whole = BudgetedGame(problem.game, problem.budget)
        game = whole if problem.n_remove is None else whole.narrowed(whole.tokens_of_part(PART))
        affordable = self._affordable(problem, game, whole)
        largest = problem.n_remove or max(2, len(problem.candidates) // 4)
        scores = _first_scores(problem)
        if scores is not None or _without_pairs(problem, affordable):
            return self._main_effects(problem, game, whole, affordable, largest, scores=scores)
        return self._with_pairs(problem, game, whole, affordable, largest)

    def _affordable(self, problem: EstimationProblem, game: Game, whole: Game) -> int:
        """How many coalitions the share of the budget pays for, if they are measured in ``game``.

        On a part of the text, all players together are measured on all of it, too.
        """
        if game is whole:
            return round((self.share or (1.0 if problem.n_remove is None else 0.5)) * problem.budget)
        return int(((self.share or SHARE) * problem.budget - 1) * whole.tokens / game.tokens)

    def _with_pairs(
        self, problem: EstimationProblem, game: MeteredGame, whole: Game, affordable: int, largest: int
    ) -> Contributions:
        """Measure all players, single absences and coalitions near the target; fit effects and pairs."""
        candidates, singles = problem.candidates, single_absences(problem)
        problem.require_budget(len(singles), self.name)
        values = game.values(singles)
        damage = np.zeros(problem.n_players)
        known = np.where(np.isfinite(values), values, np.nan)
        damage[candidates] = known[0] - known[1:]
        sampler = self.sampler or GuidedSampler(damage, min(largest + 1, len(candidates)))
        _measure_drawn(game, sampler, problem, singles, affordable)
        return self._contributions(game, whole, sampler, problem, largest / max(1, len(candidates)))

    def _main_effects(
        self,
        problem: EstimationProblem,
        game: MeteredGame,
        whole: Game,
        affordable: int,
        largest: int,
        *,
        scores: NDArray[np.float64] | None,
    ) -> Contributions:
        """Measure what first evidence would remove, then coalitions near the target; fit their effects."""
        first, evidence = _by_scores(problem, game, whole, scores)
        if game is not whole:
            affordable -= round((len(first) - 1) * (whole.tokens / game.tokens - 1))
        damage = np.zeros(problem.n_players) if evidence is None else evidence
        sampler = self.sampler or GuidedSampler(damage, largest, temperature=_temperature(evidence))
        _measure_drawn(game, sampler, problem, first, affordable)
        coalitions, measurements, estimated = _on_all_text(game, whole, len(first))
        measured = measurements[:, 0]
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
            estimated=estimated,
            fidelity=held_out_fidelity(
                lambda: MainEffects(evidence), usable, values, problem.rng, n_remove=problem.n_remove
            ),
            surrogate=surrogate,
            refit=refit_effects(problem, evidence, coalitions),
        )

    def _contributions(
        self,
        game: MeteredGame,
        whole: Game,
        sampler: Sampler,
        problem: EstimationProblem,
        absence: float,
    ) -> Contributions:
        coalitions, measurements, estimated = _on_all_text(game, whole)
        measured = measurements[:, 0]
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
            estimated=estimated,
            fidelity=held_out_fidelity(
                lambda: QuadraticSurrogate(self.focus, surrogate.scales),
                usable,
                values,
                problem.rng,
                n_remove=problem.n_remove,
            ),
            interactions=surrogate.coefficients()[1],
            interaction_errors=surrogate.interaction_errors(candidates, problem.rng.spawn(1)[0]),
            surrogate=surrogate,
            refit=refit_quadratic(
                surrogate,
                coalitions,
                lambda fitted: fitted.mean_contributions(at, candidates),
            ),
        )


def _without_pairs(problem: EstimationProblem, affordable: int) -> bool:
    """Whether there are too many players for pairs, or for single absences."""
    singles, grouped = len(problem.candidates) + 1, len(Groups.of(problem.players)) > 1
    return problem.n_players > MOST_PLAYERS_WITH_PAIRS or (grouped and 2 * singles > affordable)


def _first_scores(problem: EstimationProblem) -> NDArray[np.float64] | None:
    """First evidence of players that have groups, or are too many for pairs; shape (n_scores, n_players)."""
    few = problem.n_players <= MOST_PLAYERS_WITH_PAIRS and len(Groups.of(problem.players)) == 1
    found = None if few or problem.first_evidence is None else problem.first_evidence()
    return None if found is None else np.atleast_2d(found)


def _by_scores(
    problem: EstimationProblem, game: Game, whole: Game, scores: NDArray[np.float64] | None
) -> tuple[CoalitionMatrix, NDArray[np.float64] | None]:
    """Measure all players, and what each score would remove, as far as a quarter of the budget reaches.

    Returns:
        These coalitions, and the score whose set is best.
    """
    usable = 0 if problem.n_remove is None else problem.budget // 4
    tried = () if scores is None else tuple(scores[:usable])
    groups, n_remove = Groups.of(problem.players), problem.n_remove or 0
    sets = [groups.first(np.argsort(score, kind="stable").tolist(), n_remove) for score in tried]
    rows = without(problem.n_players, [(), *sets])
    game.values(rows)  # before all text, which then adds to it
    values = np.nan_to_num(whole.values(rows)[1:], nan=-np.inf)
    best = int(np.argmax(values)) if len(values) else 0
    return distinct(rows), None if scores is None else scores[best]


def _temperature(evidence: NDArray[np.float64] | None) -> float | None:
    """Half of the median evidence, so that draws stay near what it would remove; None without any."""
    if evidence is None:
        return None
    known = np.abs(evidence[np.isfinite(evidence)])
    return float(np.median(known)) / 2 if len(known) else None


def _measure_drawn(
    game: MeteredGame, sampler: Sampler, problem: EstimationProblem, known: CoalitionMatrix, affordable: int
) -> None:
    """Measure coalitions that the sampler draws, beside those that are known."""
    wanted = max(0, affordable - len(known))
    drawn = sampler.sample(problem.players, wanted + len(known), problem.rng)
    game.values(not_among(drawn, set(keys(known)))[:wanted])


def _on_all_text(
    game: MeteredGame, whole: Game, first: int = 1
) -> tuple[CoalitionMatrix, Measurements, Measurements]:
    """All measured coalitions, their measurements, and those that are estimates from a part of the text.

    The first ones are measured on all text. What this changes for them on average is added to the others.
    """
    coalitions, _ = game.evaluated()
    measurements = game.measurements(coalitions)
    if game is whole:
        return coalitions, measurements, measurements[:0]
    exact = whole.measurements(coalitions[:first])
    changes = exact - measurements[:first]
    usable = np.isfinite(changes).all(axis=1)
    shift = changes[usable].mean(axis=0) if usable.any() else changes[0]
    measurements = np.vstack([exact, measurements[first:] + shift])
    return coalitions, measurements, measurements[first:]


def single_absences(problem: EstimationProblem) -> CoalitionMatrix:
    """All players, then each removable player absent alone, shape (n_candidates + 1, n_players)."""
    return without(problem.n_players, [(), *([player] for player in problem.candidates.tolist())])


def refit_effects(
    problem: EstimationProblem, evidence: NDArray[np.float64] | None, coalitions: CoalitionMatrix
) -> Refit:
    """A refit of main effects to other values."""

    def contributions(usable: CoalitionMatrix, known: Values) -> NDArray[np.float64]:
        fitted = MainEffects(evidence).fit(usable, known)
        return problem.spread(fitted.contributions()[problem.candidates])

    return _refit(coalitions, contributions)


def refit_quadratic(
    surrogate: QuadraticSurrogate,
    coalitions: CoalitionMatrix,
    contributions: Callable[[QuadraticSurrogate], NDArray[np.float64]],
) -> Refit:
    """A refit: contributions of a surrogate with the same prior, fitted to other values."""

    def again(usable: CoalitionMatrix, known: Values) -> NDArray[np.float64]:
        return contributions(QuadraticSurrogate(surrogate.focus).fit(usable, known, surrogate.scales))

    return _refit(coalitions, again)


def _refit(
    coalitions: CoalitionMatrix, contributions: Callable[[CoalitionMatrix, Values], NDArray[np.float64]]
) -> Refit:
    """Contributions fitted to the finite ones of other values, or of a resample of them."""

    def refit(values: Values, rng: np.random.Generator | None) -> NDArray[np.float64] | None:
        rows = np.arange(len(values)) if rng is None else rng.integers(len(values), size=len(values))
        usable, known = finite(coalitions[rows], values[rows])
        return contributions(usable, known) if len(known) else None

    return refit
