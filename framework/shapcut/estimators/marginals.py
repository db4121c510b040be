"""Shapley values as means of sampled marginal contributions, without a surrogate."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
from numpy.typing import NDArray

from shapcut.estimators.base import EstimationProblem, Estimator
from shapcut.estimators.exact import EXACT_LIMIT, ExactEstimator
from shapcut.estimators.sampling import ShapleySampler, not_among, removable
from shapcut.game.budget import BudgetedGame
from shapcut.game.coalitions import CoalitionMatrix, Values, finite_or_none, keys, without
from shapcut.game.contributions import Contributions
from shapcut.support.errors import ShapcutError

Orders = NDArray[np.int64]
"""Shape (n_orders, n_candidates); each row is a permutation of the positions of the removable players."""


@dataclass(frozen=True, slots=True)
class Marginals:
    """Sampled marginal contributions.

    Attributes:
        player: position of each sample's player among the removable ones, shape (n_samples,).
        size: removable players present before the player joins, shape (n_samples,).
        without: row of the coalition without the player, shape (n_samples,).
        joined: row of the coalition with the player, shape (n_samples,).
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

    @classmethod
    def joining(cls, samples: Sequence["Marginals"]) -> "Marginals":
        """All samples in order."""
        return cls(*(np.concatenate([getattr(each, one.name) for each in samples]) for one in fields(cls)))


class MonteCarloEstimator(Estimator):
    """Base class of estimators that average sampled marginal contributions.

    A budget that covers every coalition gives the result of `ExactEstimator`. Players that are not removable
    are always present and get NaN. Coalitions are sampled even where the pruned model could not be built.

    Args:
        share: fraction of the budget to spend; a selector may spend the rest.
    """

    weighting: str

    def __init__(self, share: float = 1.0) -> None:
        if not 0.0 < share <= 1.0:
            raise ValueError(f"share={share} is not in (0, 1]")
        self.share = share

    def estimate(self, problem: EstimationProblem) -> Contributions:
        """See `Estimator.estimate`.

        Raises:
            ShapcutError: if no marginal contribution is finite.
        """
        n, spend = len(problem.candidates), round(self.share * problem.budget)
        if n <= EXACT_LIMIT and spend >= 1 << n:
            return ExactEstimator().estimate(replace(problem, budget=spend))
        if spend < 2 * n:
            problem.require_budget(round(2 * n / self.share + 0.5), self.name)
        counted = BudgetedGame(problem.game, spend)
        summary = self.sample(Walker(counted), problem.rng)
        spend_rest(counted, problem.rng)
        coalitions, measured = counted.evaluated()
        means, errors = summary.resampled(measured, None)
        if np.isnan(means).all():
            raise ShapcutError(f"none of {len(measured)} coalitions gives a finite marginal contribution")
        return Contributions(
            values=problem.spread(means),
            standard_errors=problem.spread(errors),
            weighting=self.weighting,
            estimator=self.name,
            full_value=finite_or_none(measured[0]),
            coalitions=coalitions,
            measured=measured,
            refit=lambda values, rng: problem.spread(summary.resampled(values, rng)[0]),
        )

    @abstractmethod
    def sample(self, walker: "Walker", rng: np.random.Generator) -> "Summary":
        """Measure coalitions within the budget and summarise their marginal contributions."""


class Summary(ABC):
    """Means of sampled marginals and their standard errors, for any values of the same coalitions."""

    @abstractmethod
    def resampled(
        self, values: Values, rng: np.random.Generator | None
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Contributions of the removable players and their standard errors, each (n_candidates,).

        With a generator, from a resample of the samples.
        """


class Walker:
    """Measures permutations, after the coalitions of all players and of the fixed players only."""

    def __init__(self, game: BudgetedGame) -> None:
        self.game = game
        self.candidates = removable(game.players)
        everybody = np.ones((1, game.n_players), dtype=np.bool_)
        nobody = without(game.n_players, [self.candidates.tolist()])
        self._rows = {key: row for row, key in enumerate(keys(np.vstack([everybody, nobody])))}
        game.values(np.vstack([everybody, nobody]))

    @property
    def n(self) -> int:
        """Number of removable players."""
        return len(self.candidates)

    def prefixes(self, orders: Orders) -> CoalitionMatrix:
        """The growing coalitions of each order, shape (n_orders * (n + 1), n_players)."""
        coalitions = np.ones((len(orders), self.n + 1, self.game.n_players), dtype=np.bool_)
        ranks = np.argsort(orders, axis=1)
        coalitions[:, :, self.candidates] = ranks[:, None, :] < np.arange(self.n + 1)[None, :, None]
        return coalitions.reshape(-1, self.game.n_players)

    def affordable(self, draws: Iterator[Orders], most: int, budget: int) -> list[Orders]:
        """The first draws, at most ``most``, whose coalitions all fit into the budget."""
        planned, chosen = set(self._rows), list[Orders]()
        for draw in draws:
            wanted = planned | set(keys(self.prefixes(draw)))
            if len(chosen) == most or len(wanted) > budget:
                break
            planned = wanted
            chosen.append(draw)
        return chosen

    def measure(self, coalitions: CoalitionMatrix) -> NDArray[np.int64]:
        """Measure coalitions; return their row numbers among all measured ones."""
        names = keys(coalitions)
        for name in names:
            self._rows.setdefault(name, len(self._rows))
        self.game.values(coalitions)
        return np.array([self._rows[name] for name in names], dtype=np.int64)

    def walk(self, orders: Orders) -> Marginals:
        """One marginal contribution of every removable player in each order."""
        rows = self.measure(self.prefixes(orders)).reshape(len(orders), self.n + 1)
        size = np.tile(np.arange(self.n), len(orders))
        return Marginals(orders.ravel(), size, rows[:, :-1].ravel(), rows[:, 1:].ravel())


def spend_rest(game: BudgetedGame, rng: np.random.Generator) -> None:
    """Spend a remainder that is too small for another sample on coalitions for a selector."""
    if game.remaining:
        drawn = ShapleySampler(generations=0).sample(game.players, game.spent + game.remaining, rng)
        game.values(not_among(drawn, set(keys(game.evaluated()[0])))[: game.remaining])


def mean_of_known(numbers: NDArray[np.float64], axis: int = 0) -> NDArray[np.float64]:
    """Mean along an axis without NaN; NaN where nothing is known."""
    known = ~np.isnan(numbers)
    count = known.sum(axis=axis)
    total = np.where(known, numbers, 0.0).sum(axis=axis)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def variance_of_known(numbers: NDArray[np.float64], axis: int = 0) -> NDArray[np.float64]:
    """Unbiased variance along an axis without NaN; NaN where fewer than two numbers are known."""
    known = ~np.isnan(numbers)
    count = known.sum(axis=axis)
    away = numbers - np.expand_dims(mean_of_known(numbers, axis), axis)
    total = np.where(known, away, 0.0) ** 2
    return np.where(count > 1, total.sum(axis=axis) / np.maximum(count - 1, 1), np.nan)
