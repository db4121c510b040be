"""Selection by search: a ranking ignores that layers stand in for each other; sets are what is removed."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from shapcut.estimators.base import finite
from shapcut.estimators.quadratic import QuadraticSurrogate
from shapcut.estimators.sampling import removable
from shapcut.game.budget import BudgetedGame
from shapcut.game.coalitions import CoalitionMatrix, Player, Values, absent_players, distinct, keys, without
from shapcut.game.contributions import Contributions
from shapcut.game.feasible import Permits, permitted_sets
from shapcut.game.game import Game
from shapcut.game.plan import RemovalPlan
from shapcut.game.surrogate import Predictor
from shapcut.selection.base import Selector, permission, require_removable
from shapcut.selection.race import race
from shapcut.support.errors import InputError


@dataclass(frozen=True, slots=True)
class Evidence:
    """Measured coalitions (n, n_players) and their finite values (n,)."""

    coalitions: CoalitionMatrix
    values: Values

    def with_measured(self, coalitions: CoalitionMatrix, values: Values) -> "Evidence":
        """This and the finite ones among further measurements."""
        usable = finite(coalitions, values)
        return Evidence(np.vstack([self.coalitions, usable[0]]), np.concatenate([self.values, usable[1]]))

    def best(self, n_remove: int, permits: Permits, at_most: int) -> CoalitionMatrix:
        """The best permitted coalitions that lack ``n_remove`` players, best value first."""
        right = (~self.coalitions).sum(axis=1) == n_remove
        ordered = self.coalitions[right][np.argsort(-self.values[right], kind="stable")]
        return permitted(ordered, permits, at_most)

    def value_of(self, coalition: NDArray[np.bool_]) -> float | None:
        """The measured value of one coalition, or None."""
        same = np.flatnonzero((self.coalitions == coalition).all(axis=1))
        return float(self.values[same[0]]) if len(same) else None


class SearchSelector(Selector):
    """Searches a surrogate for the best sets, measures them, refits, and again; the best measured set wins.

    Without a game to measure in, the set wins whose measured or else predicted value is best.

    Args:
        batch: candidates measured in each round: half of them optima of polynomials drawn from the
            surrogate's posterior (Thompson sampling), half the most promising ones by mean and deviation.
            A batch or less that the budget's end leaves goes to the best ones by mean.
        exploration: how many posterior standard deviations a candidate is credited with.
        patience: rounds in which no other set takes the lead after which the search stops.
        starts: random sets, besides the best known ones, from which each local search starts.
        finalists: how many of the best sets race over more text, where there is some; the surrogate's best
            fill up where fewer have been measured.
    """

    name = "search"

    def __init__(
        self,
        batch: int = 8,
        exploration: float = 0.5,
        patience: int = 4,
        starts: int = 8,
        finalists: int = 16,
    ) -> None:
        self.batch = batch
        self.exploration = exploration
        self.patience = patience
        self.starts = starts
        self.finalists = finalists

    def select(
        self,
        contributions: Contributions,
        players: Sequence[Player],
        n_remove: int,
        *,
        game: Game | None = None,
        budget: int = 0,
        finals: Sequence[Game] = (),
        rng: np.random.Generator,
    ) -> RemovalPlan:
        """See `Selector.select`.

        Raises:
            InputError: if no permitted set of that size is found, or nothing measured has a finite value.
        """
        require_removable(players, n_remove)
        search = _Search(self, removable(players), n_remove, permission(players, game), rng)
        evidence = Evidence(*finite(contributions.coalitions, contributions.measured))
        if not len(evidence.values):
            raise InputError(f"none of {contributions.evaluations} measured coalitions has a finite value")
        if game is not None:
            seen = set(keys(contributions.coalitions))
            evidence = search.measure(evidence, BudgetedGame(game, budget), seen)
        surrogate = QuadraticSurrogate().fit(evidence.coalitions, evidence.values)
        count = max(1, self.finalists)
        leaders = evidence.best(n_remove, search.permits, 0 if game is None else count)
        if not len(leaders) or (finals and len(leaders) < count):
            more = distinct(np.vstack([leaders, search.most_valuable(surrogate, evidence)]))
            leaders = permitted(more, search.permits, count)
        if not len(leaders):
            raise InputError(f"no permitted set of {n_remove} players was found")
        winner, final_value = race(leaders, finals if len(leaders) > 1 else ())
        measured = evidence.value_of(leaders[winner])
        return RemovalPlan.removing(
            absent_players(leaders[winner]),
            len(players),
            predicted_value=float(surrogate.predict(leaders[winner][None])[0]),
            measured_value=measured,
            full_value=contributions.full_value,
            final_value=final_value,
            method=f"{contributions.estimator} + {self.name}",
            reason=_reason(measured, len(evidence.values), 0 if final_value is None else len(leaders)),
        )


@dataclass(frozen=True, slots=True)
class _Search:
    """One search: what stays the same over its rounds."""

    options: SearchSelector
    candidates: NDArray[np.int64]
    n_remove: int
    permits: Permits
    rng: np.random.Generator

    def measure(self, evidence: Evidence, game: BudgetedGame, seen: set[bytes]) -> Evidence:
        """Rounds of fitting, proposing and measuring what is not ``seen``; returns all the evidence."""
        leader, stale = keys(evidence.best(self.n_remove, self.permits, 1)), 0
        while stale < self.options.patience and game.remaining > 0:
            surrogate = QuadraticSurrogate().fit(evidence.coalitions, evidence.values)
            last = game.remaining <= self.options.batch
            proposals = self.propose(surrogate, evidence, last=last)
            fresh = proposals[[key not in seen for key in keys(proposals)]]
            fresh = permitted(fresh, self.permits, min(self.options.batch, game.remaining))
            if not len(fresh):
                break
            seen.update(keys(fresh))
            evidence = evidence.with_measured(fresh, game.values(fresh))
            leading = keys(evidence.best(self.n_remove, self.permits, 1))
            stale = stale + 1 if leading == leader else 0
            leader = leading
        return evidence

    def propose(
        self, surrogate: QuadraticSurrogate, evidence: Evidence, *, last: bool = False
    ) -> CoalitionMatrix:
        """Sets of the right size, the ones to measure first: optima of draws, then the most promising.

        Nothing follows the last round that could use what exploring finds: then by predicted value alone.
        """
        pool = self._pool(surrogate, evidence)
        if last:
            return pool[np.argsort(-surrogate.predict(pool), kind="stable")]
        promise = surrogate.predict(pool) + self.options.exploration * surrogate.deviation(pool)
        drawn = self._optima_of_draws(surrogate, evidence, self.options.batch // 2)
        return distinct(np.vstack([drawn, pool[np.argsort(-promise, kind="stable")]]))

    def _optima_of_draws(
        self, surrogate: QuadraticSurrogate, evidence: Evidence, count: int
    ) -> CoalitionMatrix:
        """Local optima of polynomials drawn from the posterior; repeats are possible."""
        starts = self._starts(evidence)
        found = [evidence.coalitions[:0]]
        for _ in range(count):
            start = starts[self.rng.integers(len(starts))]
            found.append(climb(surrogate.draw(self.rng), start, self.candidates)[:1])
        return np.vstack(found)

    def most_valuable(self, surrogate: QuadraticSurrogate, evidence: Evidence) -> CoalitionMatrix:
        """As `propose`, best value first: measured values where there are any, else predicted ones."""
        pool = self._pool(surrogate, evidence)
        measured = evidence.best(self.n_remove, self.permits, self.options.starts)
        pool = distinct(np.vstack([measured, pool]))
        known = dict(zip(keys(evidence.coalitions), evidence.values.tolist(), strict=True))
        predicted = zip(keys(pool), surrogate.predict(pool).tolist(), strict=True)
        values = np.array([known.get(key, value) for key, value in predicted], dtype=np.float64)
        return pool[np.argsort(-values, kind="stable")]

    def _pool(self, surrogate: Predictor, evidence: Evidence) -> CoalitionMatrix:
        """Sets of the right size: where the local searches start and end, and all around there."""
        starts = self._starts(evidence)
        around = [climb(surrogate, start, self.candidates) for start in starts]
        return distinct(np.vstack([starts, *around]))

    def _starts(self, evidence: Evidence) -> CoalitionMatrix:
        """The best measured sets of the right size, some random ones, and permitted ones if those are not."""
        best = evidence.best(self.n_remove, self.permits, self.options.starts)
        random = [
            self.rng.choice(self.candidates, size=self.n_remove, replace=False).tolist()
            for _ in range(self.options.starts)
        ]
        allowed = sum(map(self.permits, random))
        if allowed < len(random):  # where few sets are permitted, chance finds none of them
            random += permitted_sets(
                self.candidates.tolist(), self.n_remove, self.permits, len(random) - allowed, self.rng
            )
        return np.vstack([best, without(evidence.coalitions.shape[1], random)])


def permitted(coalitions: CoalitionMatrix, permits: Permits, at_most: int) -> CoalitionMatrix:
    """The first rows whose absent players may be removed together; no more are asked about than needed."""
    rows = (row for row, coalition in enumerate(coalitions) if permits(absent_players(coalition)))
    return coalitions[list(islice(rows, at_most))]


def climb(surrogate: Predictor, start: NDArray[np.bool_], candidates: NDArray[np.int64]) -> CoalitionMatrix:
    """Steepest ascent by swapping one absent player for a present one.

    Returns:
        The local optimum and all its neighbours, so that each start yields more than one candidate.
    """
    current = start
    value = float(surrogate.predict(current[None])[0])
    while True:
        around = swaps(current, candidates)
        if not len(around):
            return current[None]
        values = surrogate.predict(around)
        best = int(np.argmax(values))
        if values[best] <= value:
            return np.vstack([current[None], around])
        current, value = around[best], float(values[best])


def swaps(coalition: NDArray[np.bool_], candidates: NDArray[np.int64]) -> CoalitionMatrix:
    """All coalitions in which one absent player has come back and one present candidate has gone."""
    absent = np.flatnonzero(~coalition)
    present = candidates[coalition[candidates]]
    back, gone = (grid.ravel() for grid in np.meshgrid(absent, present))
    rows = np.repeat(coalition[None], len(back), axis=0)
    rows[np.arange(len(back)), back] = True
    rows[np.arange(len(back)), gone] = False
    return rows


def _reason(measured: float | None, evaluations: int, finalists: int) -> str:
    if finalists:
        return f"the winner of {finalists} finalists on further text, after {evaluations} measured coalitions"
    if measured is None:
        return "the surrogate's best set; not measured"
    return f"the best set of this size among {evaluations} measured coalitions"
