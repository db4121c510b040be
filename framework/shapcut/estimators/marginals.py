"""Shapley values as means of sampled marginal contributions, without a surrogate."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shapcut.estimators.base import Estimator
from shapcut.estimators.exact import EXACT_LIMIT, ExactEstimator
from shapcut.estimators.sampling import ShapleySampler, not_among, removable
from shapcut.game.budget import BudgetedGame
from shapcut.game.coalitions import CoalitionMatrix, Values, keys, without
from shapcut.game.contributions import Contributions, Refit
from shapcut.game.game import Game
from shapcut.support.errors import InputError, ShapcutError

Orders = NDArray[np.int64]
"""Shape (n_orders, n_candidates); each row is an order in which the removable players arrive."""


@dataclass(frozen=True, slots=True)
class Marginals:
    """Sampled marginal contributions.

    Attributes:
        player: position of each sample's player among the removable ones, shape (n_samples,).
        size: how many removable players were there before it, shape (n_samples,).
        without: the row of the coalition that lacks it, shape (n_samples,).
        joined: the row of the coalition that it has joined, shape (n_samples,).
    """

    player: NDArray[np.int64]
    size: NDArray[np.int64]
    without: NDArray[np.int64]
    joined: NDArray[np.int64]

    def of(self, values: Values) -> Values:
        """Each sample's marginal contribution, shape (n_samples,); NaN where a value is not finite."""
        usable = np.where(np.isfinite(values), values, np.nan)
        marginals: Values = usable[self.joined] - usable[self.without]
        return marginals


class MonteCarloEstimator(Estimator):
    """What estimators from sampled marginal contributions share.

    Where the budget is enough for every coalition, the answer is that of `ExactEstimator`. Players that are
    not removable are always there and get NaN. Other coalitions are sampled whether or not the model without
    the absent players could be built, as all estimators do.

    Args:
        share: part of the budget to spend; the rest is left to a selector that measures candidates.
    """

    weighting: str

    def __init__(self, share: float = 1.0) -> None:
        if not 0.0 < share <= 1.0:
            raise ValueError(f"share={share} is not in (0, 1]")
        self.share = share

    def estimate(
        self, game: Game, budget: int, rng: np.random.Generator, *, n_remove: int | None = None
    ) -> Contributions:
        """See `Estimator.estimate`.

        Raises:
            ShapcutError: if no marginal contribution is finite.
        """
        n, spend = len(removable(game.players)), round(self.share * budget)
        if n <= EXACT_LIMIT and spend >= 1 << n:
            return ExactEstimator().estimate(game, spend, rng, n_remove=n_remove)
        if spend < 2 * n:
            raise InputError(
                f"estimator {self.name!r} needs a budget of at least {round(2 * n / self.share + 0.5)} "
                f"coalitions here, got {budget}"
            )
        counted = BudgetedGame(game, spend)
        walker = Walker(counted)
        refit = self.sample(walker, rng)
        spend_rest(counted, rng)
        coalitions, measured = counted.evaluated()
        means, errors = refit.summary(measured)
        if np.isnan(means).all():
            raise ShapcutError(f"none of {len(measured)} coalitions gives a finite marginal contribution")
        return Contributions(
            values=spread(means, game),
            standard_errors=spread(errors, game),
            weighting=self.weighting,
            estimator=self.name,
            full_value=float(measured[0]) if np.isfinite(measured[0]) else None,
            coalitions=coalitions,
            measured=measured,
            refit=refit.to_contributions(game),
        )

    @abstractmethod
    def sample(self, walker: "Walker", rng: np.random.Generator) -> "Summary":
        """Measure coalitions within the budget; returns how their values become contributions."""


class Summary(ABC):
    """Means of sampled marginals and their standard errors, for any values of the same coalitions."""

    def summary(self, values: Values) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Contributions of the removable players and their standard errors, each (n_candidates,)."""
        return self.resampled(values, None)

    @abstractmethod
    def resampled(
        self, values: Values, rng: np.random.Generator | None
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """As `summary`, from a resample of the samples if there is a generator."""

    def to_contributions(self, game: Game) -> Refit:
        """The same as a function that gives every player's contribution."""
        return lambda values, rng: spread(self.resampled(values, rng)[0], game)


class Walker:
    """Measures orders of arrival; the first two coalitions are everybody and nobody who can be absent."""

    def __init__(self, game: BudgetedGame) -> None:
        self.game = game
        self.candidates = removable(game.players)
        everybody = np.ones((1, game.n_players), dtype=np.bool_)
        nobody = without(game.n_players, [self.candidates.tolist()])
        self._rows = {key: row for row, key in enumerate(keys(np.vstack([everybody, nobody])))}
        game.values(np.vstack([everybody, nobody]))

    @property
    def n(self) -> int:
        """How many players can be absent."""
        return len(self.candidates)

    def prefixes(self, orders: Orders) -> CoalitionMatrix:
        """The coalitions of those who have arrived, of each order from nobody to everybody."""
        coalitions = np.ones((len(orders), self.n + 1, self.game.n_players), dtype=np.bool_)
        ranks = np.argsort(orders, axis=1)
        coalitions[:, :, self.candidates] = ranks[:, None, :] < np.arange(self.n + 1)[None, :, None]
        return coalitions.reshape(-1, self.game.n_players)

    def affordable(self, draws: Iterator[Orders], most: int, budget: int) -> list[Orders]:
        """Draws until one costs more than is left of the budget, at most so many."""
        planned, chosen = set(self._rows), list[Orders]()
        for draw in draws:
            wanted = planned | set(keys(self.prefixes(draw)))
            if len(chosen) == most or len(wanted) > budget:
                break
            planned = wanted
            chosen.append(draw)
        return chosen

    def measure(self, coalitions: CoalitionMatrix) -> NDArray[np.int64]:
        """Measure coalitions; returns their row numbers among all that are measured."""
        names = keys(coalitions)
        for name in names:
            self._rows.setdefault(name, len(self._rows))
        self.game.values(coalitions)
        return np.array([self._rows[name] for name in names], dtype=np.int64)

    def walk(self, orders: Orders) -> Marginals:
        """One marginal contribution of every removable player for each order."""
        rows = self.measure(self.prefixes(orders)).reshape(len(orders), self.n + 1)
        size = np.tile(np.arange(self.n), len(orders))
        return Marginals(orders.ravel(), size, rows[:, :-1].ravel(), rows[:, 1:].ravel())


def spread(candidate_values: NDArray[np.float64], game: Game) -> NDArray[np.float64]:
    """Values of the removable players among all players; the others get NaN."""
    everybody = np.full(game.n_players, np.nan)
    everybody[removable(game.players)] = candidate_values
    return everybody


def spend_rest(game: BudgetedGame, rng: np.random.Generator) -> None:
    """What no whole sample fits into is spent on further coalitions, which selectors can use."""
    if game.remaining:
        drawn = ShapleySampler(generations=0).sample(game.players, game.spent + game.remaining, rng)
        game.values(not_among(drawn, set(keys(game.evaluated()[0])))[: game.remaining])


def mean_of_known(numbers: NDArray[np.float64], axis: int = 0) -> NDArray[np.float64]:
    """Mean along an axis over what is not NaN; NaN where nothing is known."""
    known = ~np.isnan(numbers)
    count = known.sum(axis=axis)
    total = np.where(known, numbers, 0.0).sum(axis=axis)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def variance_of_known(numbers: NDArray[np.float64], axis: int = 0) -> NDArray[np.float64]:
    """Unbiased variance along an axis over what is not NaN; NaN where fewer than two are known."""
    known = ~np.isnan(numbers)
    count = known.sum(axis=axis)
    away = numbers - np.expand_dims(mean_of_known(numbers, axis), axis)
    total = np.where(known, away, 0.0) ** 2
    return np.where(count > 1, total.sum(axis=axis) / np.maximum(count - 1, 1), np.nan)
