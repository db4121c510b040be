"""Selection by search over sets: a ranking ignores interactions between layers."""

from dataclasses import dataclass, field
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from shapcut.estimators.polynomial import Polynomial, Scales
from shapcut.estimators.quadratic import QuadraticSurrogate
from shapcut.game.budget import BudgetedGame
from shapcut.game.coalitions import CoalitionMatrix, Values, absent_players, distinct, keys, without
from shapcut.game.feasible import Permits, permitted_sets
from shapcut.game.plan import RemovalPlan
from shapcut.selection.base import SelectionProblem, Selector
from shapcut.selection.race import Heats, race
from shapcut.support.errors import InputError

_GROWTH = 64
"""A round measures at least one coalition for this many known ones, so that rounds stay few."""

_NEIGHBOURS = 256
"""Neighbours of a local optimum that are looked at: all of up to 32 players, the best of more."""

_ROUNDING = 1e-12
"""Gains below this share of the largest coefficient are rounding."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """Coalitions (n, n_players) and their finite values (n,).

    Attributes:
        coalitions: the coalitions.
        values: measured on all text, or estimated from a part of it.
        measured: which of them are measured on all text, shape (n,).
    """

    coalitions: CoalitionMatrix
    values: Values
    measured: NDArray[np.bool_]

    def with_more(
        self, coalitions: CoalitionMatrix, values: Values, measured: NDArray[np.bool_]
    ) -> "Evidence":
        """This evidence and the finite ones of further values, which replace those of the same coalitions."""
        usable, new = np.isfinite(values), set(keys(coalitions))
        kept = np.array([key not in new for key in keys(self.coalitions)], dtype=np.bool_)
        return Evidence(
            np.vstack([self.coalitions[kept], coalitions[usable]]),
            np.concatenate([self.values[kept], values[usable]]),
            np.concatenate([self.measured[kept], measured[usable]]),
        )

    def best(self, n_remove: int, permits: Permits, at_most: int) -> CoalitionMatrix:
        """The best measured and permitted coalitions without ``n_remove`` players, best value first."""
        right = self.measured & ((~self.coalitions).sum(axis=1) == n_remove)
        ordered = self.coalitions[right][np.argsort(-self.values[right], kind="stable")]
        return permitted(ordered, permits, at_most)

    def value_of(self, coalition: NDArray[np.bool_]) -> float | None:
        """The measured value of one coalition, or None."""
        same = np.flatnonzero(self.measured & (self.coalitions == coalition).all(axis=1))
        return float(self.values[same[0]]) if len(same) else None


class SearchSelector(Selector):
    """Searches a surrogate for the best sets, measures them, and refits; the best measured set wins.

    Without a game to measure in, the set with the best measured or predicted value wins.

    Args:
        batch: candidates of each round, half of them optima of polynomials drawn from the surrogate's
            posterior (Thompson sampling), half the most promising ones by mean and deviation. They race over
            the text, see `shapcut.selection.race.Heats`.
            The last batch of the budget goes to the best ones by mean. Rounds that follow many coalitions
            measure a 64th as many, if that is more.
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
        usable, on_all_text = np.isfinite(contributions.measured), contributions.on_all_text
        evidence = Evidence(
            contributions.coalitions[usable], contributions.measured[usable], on_all_text[usable]
        )
        if not len(evidence.values):
            raise InputError(f"none of {contributions.evaluations} measured coalitions has a finite value")
        if problem.game is not None:
            seen = set(keys(contributions.coalitions[on_all_text]))
            evidence = search.measure(evidence, BudgetedGame(problem.game, problem.budget), seen)
        surrogate = search.fit(evidence)
        leaders = search.leaders(surrogate, evidence)
        winner, final_value = race(leaders, problem.finals if len(leaders) > 1 else ())
        measured = evidence.value_of(leaders[winner])
        return problem.plan(
            absent_players(leaders[winner]),
            predicted_value=float(surrogate.predict(leaders[winner][None])[0]),
            measured_value=measured,
            final_value=final_value,
            method=f"{contributions.estimator} + {self.name}",
            reason=_reason(
                measured, int(evidence.measured.sum()), 0 if final_value is None else len(leaders)
            ),
        )


@dataclass(slots=True)
class _Search:
    """The rounds of one search, and its local searches."""

    options: SearchSelector
    problem: SelectionProblem
    scales: Scales | None = field(init=False)
    """Those of the last fit, where the next one starts."""

    def __post_init__(self) -> None:
        fitted = self.problem.contributions.surrogate
        self.scales = fitted.scales if isinstance(fitted, QuadraticSurrogate) else None

    def fit(self, evidence: Evidence) -> QuadraticSurrogate:
        """A surrogate of all evidence."""
        surrogate = QuadraticSurrogate(start=self.scales).fit(evidence.coalitions, evidence.values)
        self.scales = surrogate.scales
        return surrogate

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
        leader, stale, heats = keys(self.best(evidence, 1)), 0, Heats(game)
        while stale < self.options.patience and game.remaining > 0:
            batch = max(self.options.batch, len(evidence.values) // _GROWTH)
            proposals = self.propose(self.fit(evidence), evidence, batch, last=game.remaining <= batch)
            fresh = proposals[[key not in seen for key in keys(proposals)]]
            fresh = permitted(fresh, self.problem.permits, min(batch, game.remaining))
            if not len(fresh):
                break
            seen.update(keys(fresh))
            evidence = evidence.with_more(fresh, *heats.run(fresh))
            leading = keys(self.best(evidence, 1))
            stale = stale + 1 if leading == leader else 0
            leader = leading
        return evidence

    def propose(
        self, surrogate: QuadraticSurrogate, evidence: Evidence, count: int, *, last: bool = False
    ) -> CoalitionMatrix:
        """Sets of the right size in the order to measure: optima of draws, then the most promising.

        The last round does not explore, since no later round could use the result.
        """
        pool = self._pool(surrogate.polynomial, evidence)
        if last:
            return pool[np.argsort(-surrogate.predict(pool), kind="stable")]
        promise = surrogate.predict(pool) + self.options.exploration * surrogate.deviation(pool)
        drawn = self._optima_of_draws(surrogate, evidence, count // 2)
        return distinct(np.vstack([drawn, pool[np.argsort(-promise, kind="stable")]]))

    def _optima_of_draws(
        self, surrogate: QuadraticSurrogate, evidence: Evidence, count: int
    ) -> CoalitionMatrix:
        """Local optima of polynomials drawn from the posterior; repeats are possible."""
        starts = self._starts(evidence)
        found = [evidence.coalitions[:0]]
        for _ in range(count):
            start = starts[self.problem.rng.integers(len(starts))]
            drawn = surrogate.draw(self.problem.rng)
            found.append(climb(drawn, start, self.problem.candidates)[None])
        return np.vstack(found)

    def most_valuable(self, surrogate: QuadraticSurrogate, evidence: Evidence) -> CoalitionMatrix:
        """Sets of the right size by value, measured or else predicted, best first."""
        pool = self._pool(surrogate.polynomial, evidence)
        measured = self.best(evidence, self.options.starts)
        pool = distinct(np.vstack([measured, pool]))
        known = dict(zip(keys(evidence.coalitions), evidence.values.tolist(), strict=True))
        predicted = zip(keys(pool), surrogate.predict(pool).tolist(), strict=True)
        values = np.array([known.get(key, value) for key, value in predicted], dtype=np.float64)
        return pool[np.argsort(-values, kind="stable")]

    def _pool(self, mean: Polynomial, evidence: Evidence) -> CoalitionMatrix:
        """Starts and ends of the local searches, and the neighbours of the ends."""
        starts, candidates = self._starts(evidence), self.problem.candidates
        ends = distinct(np.array([climb(mean, start, candidates) for start in starts]))
        around = [np.vstack([end, swaps(mean, end, candidates, _NEIGHBOURS)]) for end in ends]
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


def climb(
    polynomial: Polynomial, start: NDArray[np.bool_], candidates: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Steepest ascent by swapping one absent player for a present candidate, to a local optimum."""
    largest = max(np.abs(polynomial.linear).max(), np.abs(polynomial.pairs).max())
    current = start.copy()
    while True:
        back, gone, gains = swap_gains(polynomial, current, candidates)
        best = int(np.argmax(gains)) if gains.size else 0
        if not gains.size or gains.flat[best] <= _ROUNDING * largest:
            return current
        row, column = divmod(best, len(back))
        current[back[column]], current[gone[row]] = True, False


def swaps(
    polynomial: Polynomial, coalition: NDArray[np.bool_], candidates: NDArray[np.int64], at_most: int
) -> CoalitionMatrix:
    """The ``at_most`` best coalitions that swap one absent player for a present candidate."""
    back, gone, gains = swap_gains(polynomial, coalition, candidates)
    chosen = np.sort(np.argsort(-gains, axis=None, kind="stable")[:at_most])
    rows = np.repeat(coalition[None], len(chosen), axis=0)
    rows[np.arange(len(chosen)), back[chosen % max(1, len(back))]] = True
    rows[np.arange(len(chosen)), gone[chosen // max(1, len(back))]] = False
    return rows


def swap_gains(
    polynomial: Polynomial, coalition: NDArray[np.bool_], candidates: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """What each swap adds to the polynomial, in closed form.

    Returns:
        The players that may come back, those that may go, and the gains, shape (n_gone, n_back).
    """
    back, gone = np.flatnonzero(~coalition), candidates[coalition[candidates]]
    slopes = polynomial.linear + polynomial.pairs[:, back].sum(axis=1)
    gains = slopes[gone][:, None] - slopes[back] - polynomial.pairs[np.ix_(gone, back)]
    return back, gone, gains


def _reason(measured: float | None, evaluations: int, finalists: int) -> str:
    if finalists:
        return f"the winner of {finalists} finalists on further text, after {evaluations} measured coalitions"
    if measured is None:
        return "the surrogate's best set; not measured"
    return f"the best set of this size among {evaluations} measured coalitions"
