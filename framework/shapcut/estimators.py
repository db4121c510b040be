"""Estimators: from a game and a budget to every player's contribution."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from math import comb
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from shapcut.coalitions import CoalitionMatrix, Values, all_coalitions, keys, without
from shapcut.contributions import Contributions, Fidelity, Refit
from shapcut.errors import InputError, ShapcutError
from shapcut.game import BudgetedGame, Game
from shapcut.sampling import GuidedSampler, Sampler, not_among, removable
from shapcut.surrogates import QuadraticSurrogate, Surrogate

EXACT_LIMIT = 16


class Estimator(ABC):
    """Estimates contributions; its options are its constructor's keyword arguments."""

    name: str

    @abstractmethod
    def estimate(
        self, game: Game, budget: int, rng: np.random.Generator, *, n_remove: int | None = None
    ) -> Contributions:
        """Estimate every player's contribution.

        Args:
            game: the game to ask.
            budget: how many distinct coalitions may be evaluated.
            rng: source of all randomness.
            n_remove: how many players are to be removed later, if known: where to look closely.

        Raises:
            InputError: if the budget is too small or the game too large for this estimator.
        """


def finite(coalitions: CoalitionMatrix, values: Values) -> tuple[CoalitionMatrix, Values]:
    """The rows with a finite value: a coalition and its value always stay or go together."""
    usable = np.isfinite(values)
    return coalitions[usable], values[usable]


def held_out_fidelity(
    make: Callable[[], Surrogate],
    coalitions: CoalitionMatrix,
    values: Values,
    rng: np.random.Generator,
    folds: int = 5,
) -> Fidelity:
    """Fidelity by cross-validation: each coalition is predicted by a surrogate that did not see it."""
    if len(values) < 2:  # noqa: PLR2004 - one to fit to, one to predict
        return Fidelity(None, None, None, 0)
    fold = rng.permutation(len(values)) % folds
    predicted = np.empty_like(values)
    for part in range(folds):
        out = fold == part
        if out.any():
            predicted[out] = make().fit(coalitions[~out], values[~out]).predict(coalitions[out])
    return Fidelity.of(predicted, values, coalitions)


class ExactEstimator(Estimator):
    """Shapley values from all coalitions of at most 16 removable players (Shapley, 1953)."""

    name = "exact"

    def estimate(
        self,
        game: Game,
        budget: int,
        rng: np.random.Generator,  # noqa: ARG002 - nothing is random here
        *,
        n_remove: int | None = None,  # noqa: ARG002 - nor local
    ) -> Contributions:
        """Enumerate; players that cannot be absent get NaN, since the game does not define theirs."""
        candidates = removable(game.players)
        n = len(candidates)
        if n > EXACT_LIMIT:
            raise InputError(f"estimator 'exact' takes at most {EXACT_LIMIT} players, the game has {n}")
        if budget < 1 << n:
            raise InputError(f"estimator 'exact' needs a budget of {1 << n} coalitions, got {budget}")
        inner = all_coalitions(n)
        coalitions = np.ones((len(inner), game.n_players), dtype=np.bool_)
        coalitions[:, candidates] = inner
        values = game.values(coalitions)
        if not np.isfinite(values).all():
            bad = int((~np.isfinite(values)).sum())
            raise ShapcutError(f"{bad} of {len(values)} coalitions have no finite value: no exact answer")
        contributions = np.full(game.n_players, np.nan)
        contributions[candidates] = exact_shapley_values(inner, values)
        return Contributions(
            values=contributions,
            standard_errors=np.where(np.isnan(contributions), np.nan, 0.0),
            weighting="the Shapley weights, all coalitions",
            estimator=self.name,
            full_value=float(values[-1]),
            coalitions=coalitions,
            measured=values,
            refit=lambda others, rng: None if rng else self._refit(inner, others, contributions, candidates),
        )

    @staticmethod
    def _refit(
        inner: CoalitionMatrix, values: Values, like: NDArray[np.float64], candidates: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        refitted = np.full_like(like, np.nan)
        refitted[candidates] = exact_shapley_values(inner, values)
        return refitted


def exact_shapley_values(coalitions: CoalitionMatrix, values: Values) -> NDArray[np.float64]:
    """Shapley values from the values of all coalitions in the order of `all_coalitions`.

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
