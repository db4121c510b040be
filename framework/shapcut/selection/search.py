"""Selection by search over sets: a ranking ignores interactions between layers."""

from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from shapcut.estimators.base import finite
from shapcut.estimators.quadratic import QuadraticSurrogate
from shapcut.game.budget import BudgetedGame
from shapcut.game.coalitions import CoalitionMatrix, Values, absent_players, distinct, keys, without
from shapcut.game.feasible import Permits, permitted_sets
from shapcut.game.plan import RemovalPlan
from shapcut.game.surrogate import Predictor
from shapcut.selection.base import SelectionProblem, Selector
from shapcut.selection.race import race
from shapcut.support.errors import InputError


@dataclass(frozen=True, slots=True)
class Evidence:
    """Measured coalitions (n, n_players) and their finite values (n,)."""

    coalitions: CoalitionMatrix
    values: Values

    def with_measured(self, coalitions: CoalitionMatrix, values: Values) -> "Evidence":
        """This evidence and the finite ones of further measurements."""
        usable = finite(coalitions, values)
        return Evidence(np.vstack([self.coalitions, usable[0]]), np.concatenate([self.values, usable[1]]))

    def best(self, n_remove: int, permits: Permits, at_most: int) -> CoalitionMatrix:
        """The best permitted coalitions without ``n_remove`` players, best value first."""
        right = (~self.coalitions).sum(axis=1) == n_remove
        ordered = self.coalitions[right][np.argsort(-self.values[right], kind="stable")]
        return permitted(ordered, permits, at_most)

    def value_of(self, coalition: NDArray[np.bool_]) -> float | None:
        """The measured value of one coalition, or None."""
        same = np.flatnonzero((self.coalitions == coalition).all(axis=1))
        return float(self.values[same[0]]) if len(same) else None


class SearchSelector(Selector):
    """Searches a surrogate for the best sets, measures them, and refits; the best measured set wins.

    Without a game to measure in, the set with the best measured or predicted value wins.

    Args:
        batch: candidates measured in each round: half of them optima of polynomials drawn from the
            surrogate's posterior (Thompson sampling), half the most promising ones by mean and deviation.
            The last batch of the budget goes to the best ones by mean.
        exploration: posterior standard deviations added to a candidate's mean.
        patience: rounds without a new leader after which the search stops.
        starts: random starts of each local search, besides the best known sets.
        finalists: number of best sets that race over further texts, if there are any; the surrogate's best
            sets are added if fewer have been measured.
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

    def select(self, problem: SelectionProblem) -> RemovalPlan:
        """See `Selector.select`.

        Raises:
            InputError: if no permitted set of that size is found, or nothing measured has a finite value.
        """
        contributions, search = problem.contributions, _Search(self, problem)
        evidence = Evidence(*finite(contributions.coalitions, contributions.measured))
        if not len(evidence.values):
            raise InputError(f"none of {contributions.evaluations} measured coalitions has a finite value")
        if problem.game is not None:
            seen = set(keys(contributions.coalitions))
            evidence = search.measure(evidence, BudgetedGame(problem.game, problem.budget), seen)
        surrogate = QuadraticSurrogate().fit(evidence.coalitions, evidence.values)
        leaders = search.leaders(surrogate, evidence)
        winner, final_value = race(leaders, problem.finals if len(leaders) > 1 else ())
        measured = evidence.value_of(leaders[winner])
        return problem.plan(
            absent_players(leaders[winner]),
            predicted_value=float(surrogate.predict(leaders[winner][None])[0]),
            measured_value=measured,
            final_value=final_value,
            method=f"{contributions.estimator} + {self.name}",
            reason=_reason(measured, len(evidence.values), 0 if final_value is None else len(leaders)),
        )


@dataclass(frozen=True, slots=True)
class _Search:
    """The rounds of one search, and its local searches."""

    options: SearchSelector
    problem: SelectionProblem

    def best(self, evidence: Evidence, at_most: int) -> CoalitionMatrix:
        """The best measured sets of the right size that may be removed."""
        return evidence.best(self.problem.n_remove, self.problem.permits, at_most)

    def leaders(self, surrogate: QuadraticSurrogate, evidence: Evidence) -> CoalitionMatrix:
        """The best sets of the right size, measured ones first; without a game, by value alone."""
        count = max(1, self.options.finalists)
        leaders = self.best(evidence, 0 if self.problem.game is None else count)
        if not len(leaders) or (self.problem.finals and len(leaders) < count):
            more = distinct(np.vstack([leaders, self.most_valuable(surrogate, evidence)]))
            leaders = permitted(more, self.problem.permits, count)
        if not len(leaders):
            raise InputError(f"no permitted set of {self.problem.n_remove} players was found")
        return leaders

    def measure(self, evidence: Evidence, game: BudgetedGame, seen: set[bytes]) -> Evidence:
        """Fit, propose and measure unseen sets in rounds; return all evidence."""
        leader, stale = keys(self.best(evidence, 1)), 0
        while stale < self.options.patience and game.remaining > 0:
            surrogate = QuadraticSurrogate().fit(evidence.coalitions, evidence.values)
            last = game.remaining <= self.options.batch
            proposals = self.propose(surrogate, evidence, last=last)
            fresh = proposals[[key not in seen for key in keys(proposals)]]
            fresh = permitted(fresh, self.problem.permits, min(self.options.batch, game.remaining))
            if not len(fresh):
                break
            seen.update(keys(fresh))
            evidence = evidence.with_measured(fresh, game.values(fresh))
            leading = keys(self.best(evidence, 1))
            stale = stale + 1 if leading == leader else 0
            leader = leading
        return evidence

    def propose(
        self, surrogate: QuadraticSurrogate, evidence: Evidence, *, last: bool = False
    ) -> CoalitionMatrix:
        """Sets of the right size in the order to measure: optima of draws, then the most promising.

        The last round does not explore, since no later round could use the result.
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
            start = starts[self.problem.rng.integers(len(starts))]
            found.append(climb(surrogate.draw(self.problem.rng), start, self.problem.candidates)[:1])
        return np.vstack(found)

    def most_valuable(self, surrogate: QuadraticSurrogate, evidence: Evidence) -> CoalitionMatrix:
        """Sets of the right size by value, measured or else predicted, best first."""
        pool = self._pool(surrogate, evidence)
        measured = self.best(evidence, self.options.starts)
        pool = distinct(np.vstack([measured, pool]))
        known = dict(zip(keys(evidence.coalitions), evidence.values.tolist(), strict=True))
        predicted = zip(keys(pool), surrogate.predict(pool).tolist(), strict=True)
        values = np.array([known.get(key, value) for key, value in predicted], dtype=np.float64)
        return pool[np.argsort(-values, kind="stable")]

    def _pool(self, surrogate: Predictor, evidence: Evidence) -> CoalitionMatrix:
        """Starts and ends of the local searches, and the neighbours of the ends."""
        starts = self._starts(evidence)
        around = [climb(surrogate, start, self.problem.candidates) for start in starts]
        return distinct(np.vstack([starts, *around]))

    def _starts(self, evidence: Evidence) -> CoalitionMatrix:
        """The best measured sets and random ones, plus a permitted set for each forbidden draw."""
        problem, candidates = self.problem, self.problem.candidates
        random = [
            problem.rng.choice(candidates, size=problem.n_remove, replace=False).tolist()
            for _ in range(self.options.starts)
        ]
        missing = len(random) - sum(map(problem.permits, random))
        if missing:  # random draws rarely meet a permitted set where few are permitted
            random += permitted_sets(
                candidates.tolist(), problem.n_remove, problem.permits, missing, problem.rng
            )
        best = self.best(evidence, self.options.starts)
        return np.vstack([best, without(problem.n_players, random)])


def permitted(coalitions: CoalitionMatrix, permits: Permits, at_most: int) -> CoalitionMatrix:
    """The first rows whose absent players may be removed together; stops after ``at_most``."""
    rows = (row for row, coalition in enumerate(coalitions) if permits(absent_players(coalition)))
    return coalitions[list(islice(rows, at_most))]


def climb(surrogate: Predictor, start: NDArray[np.bool_], candidates: NDArray[np.int64]) -> CoalitionMatrix:
    """Steepest ascent by swapping one absent player for a present one.

    Returns:
        The local optimum and all its neighbours.
    """
    current = start
    value = float(surrogate.predict(current[None])[0])
    while True:
        around = swaps(current, candidates)
        if not len(around):
            return current[None]
        values = surrogate.predict(around)
        best = int(np.argmax(values))
        if not values[best] > value:
            return np.vstack([current[None], around])
        current, value = around[best], float(values[best])


def swaps(coalition: NDArray[np.bool_], candidates: NDArray[np.int64]) -> CoalitionMatrix:
    """All coalitions that swap one absent player for a present candidate."""
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
