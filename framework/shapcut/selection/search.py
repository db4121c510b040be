"""Selection by search over sets: a ranking ignores interactions between layers."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shapcut.estimators.main_effects import MOST_PLAYERS_WITH_PAIRS, MainEffects
from shapcut.estimators.polynomial import Polynomial, Scales
from shapcut.estimators.quadratic import QuadraticSurrogate
from shapcut.game.budget import BudgetedGame
from shapcut.game.coalitions import CoalitionMatrix, absent_players, distinct, keys, without
from shapcut.game.feasible import permitted_sets
from shapcut.game.groups import Groups
from shapcut.game.plan import RemovalPlan
from shapcut.selection.base import SelectionProblem, Selector
from shapcut.selection.effect_search import EffectSearch
from shapcut.selection.part_moves import climb_permitted, come_in_parts, exchanges
from shapcut.selection.race import Outcome, race
from shapcut.selection.rounds import Evidence, Rounds, permitted
from shapcut.support.errors import InputError

_NEIGHBOURS = 256
"""Neighbours of a local optimum that are looked at: all of up to 32 players, the best of more."""

_ROUNDING = 1e-12
"""Gains below this share of the largest coefficient are rounding."""


class SearchSelector(Selector):
    """Searches a surrogate for the best sets, measures them, and refits; the best measured set wins.

    Without a game to measure in, the set with the best measured or predicted value wins. With thousands of
    players, and after an estimate without pairs, the surrogate has main effects only, see `EffectSearch`.

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
    handles_groups = True
    takes_starts = True

    def __init__(
        self,
        batch: int = 8,
        exploration: float = 0.5,
        patience: int = 4,
        starts: int = 8,
        finalists: int = 16,
    ) -> None:
        for option, value in (("batch", batch), ("patience", patience), ("finalists", finalists)):
            if value < 1:
                raise ValueError(f"{option}={value} is less than 1")
        for option, least in (("exploration", exploration), ("starts", starts)):
            if least < 0:
                raise ValueError(f"{option}={least} is negative")
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
        contributions, search = problem.contributions, self._rounds(problem)
        usable, on_all_text = np.isfinite(contributions.measured), contributions.on_all_text
        evidence = Evidence(
            contributions.coalitions[usable], contributions.measured[usable], on_all_text[usable]
        )
        if not len(evidence.values):
            raise InputError(f"none of {contributions.evaluations} measured coalitions has a finite value")
        if problem.game is not None:
            seen = set(keys(contributions.coalitions[on_all_text]))
            game = BudgetedGame(problem.game, problem.budget)
            evidence = _with_starts(problem, evidence, game, seen)
            evidence = search.measure(evidence, game, seen)
        surrogate = search.fit(evidence)
        leaders = search.leaders(surrogate, evidence)
        end = race(leaders, problem.finals if len(leaders) > 1 else ())
        winner = leaders[end.winner]
        measured = evidence.value_of(winner)
        return problem.plan(
            absent_players(winner),
            predicted_value=float(surrogate.predict(winner[None])[0]),
            measured_value=measured,
            final_value=end.value,
            method=f"{contributions.estimator} + {self.name}",
            reason=_reason(measured, evidence, end, len(leaders)),
        )

    def _rounds(self, problem: SelectionProblem) -> Rounds[Any]:
        surrogate = problem.contributions.surrogate
        if isinstance(surrogate, MainEffects) or problem.n_players > MOST_PLAYERS_WITH_PAIRS:
            return EffectSearch(self, problem)
        return QuadraticSearch(self, problem)


def _with_starts(
    problem: SelectionProblem, evidence: Evidence, game: BudgetedGame, seen: set[bytes]
) -> Evidence:
    """The evidence and the values of the problem's starts that may be removed."""
    right = [start for start in problem.starts if len(start) == problem.n_remove and problem.permits(start)]
    rows = without(problem.n_players, right[: game.remaining])
    fresh = rows[[key not in seen for key in keys(rows)]]
    seen.update(keys(fresh))
    return evidence.with_more(fresh, game.values(fresh), np.ones(len(fresh), dtype=np.bool_))


@dataclass(slots=True)
class QuadraticSearch(Rounds[QuadraticSurrogate]):
    """Rounds with local searches of a quadratic surrogate."""

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
            found.append(self._climb(drawn, start)[None])
        return np.vstack(found)

    def _climb(self, polynomial: Polynomial, start: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """The local optimum that a start leads to; through permitted sets alone if players are parts."""
        problem = self.problem
        if come_in_parts(problem.players):
            return climb_permitted(polynomial, start, problem.candidates, problem.permits)
        return climb(polynomial, start, problem.candidates, problem.groups)

    def _around(self, polynomial: Polynomial, end: NDArray[np.bool_]) -> CoalitionMatrix:
        """The most promising neighbours of a local optimum."""
        problem = self.problem
        if not come_in_parts(problem.players):
            return swaps(polynomial, end, problem.candidates, _NEIGHBOURS, problem.groups)
        around = exchanges(end, problem.candidates)
        ranked = around[np.argsort(-polynomial.predict(around), kind="stable")]
        return permitted(ranked, problem.permits, _NEIGHBOURS)

    def most_valuable(self, surrogate: QuadraticSurrogate, evidence: Evidence) -> CoalitionMatrix:
        """Sets of the right size by value, measured or else predicted, best first."""
        return self.by_value(self._pool(surrogate.polynomial, evidence), surrogate, evidence)

    def _pool(self, mean: Polynomial, evidence: Evidence) -> CoalitionMatrix:
        """Starts and ends of the local searches, and the neighbours of the ends."""
        starts = self._starts(evidence)
        ends = distinct(np.array([self._climb(mean, start) for start in starts]))
        around = [np.vstack([end, self._around(mean, end)]) for end in ends]
        return distinct(np.vstack([starts, *around]))

    def _starts(self, evidence: Evidence) -> CoalitionMatrix:
        """The best measured sets and random ones, plus a permitted set for each forbidden draw."""
        problem, groups = self.problem, self.problem.groups
        random: list[Sequence[int]] = [
            groups.draw(problem.n_remove, problem.rng) for _ in range(self.options.starts)
        ]
        missing = len(random) - sum(map(problem.permits, random))
        if missing:  # random draws rarely meet a permitted set where few are permitted
            permits, candidates = problem.permits, problem.candidates.tolist()
            random += permitted_sets(
                candidates, problem.n_remove, permits, missing, problem.rng, groups=groups
            )
        best = self.best(evidence, self.options.starts)
        return np.vstack([best, without(problem.n_players, random)])


def climb(
    polynomial: Polynomial,
    start: NDArray[np.bool_],
    candidates: NDArray[np.int64],
    groups: Groups | None = None,
) -> NDArray[np.bool_]:
    """Steepest ascent by swapping one absent player for a present candidate, to a local optimum."""
    largest = max(np.abs(polynomial.linear).max(), np.abs(polynomial.pairs).max())
    current = start.copy()
    back, gone = _exchangeable(current, candidates)
    slopes, between = _slopes(polynomial, current), polynomial.pairs[np.ix_(gone, back)]
    while True:
        gains = _gains(slopes, between, back, gone, groups)
        best = int(np.argmax(gains)) if gains.size else 0
        if not gains.size or gains.flat[best] <= _ROUNDING * largest:
            return current
        row, column = divmod(best, len(back))
        returns, leaves = back[column], gone[row]
        current[returns], current[leaves] = True, False
        back[column], gone[row] = leaves, returns
        slopes += polynomial.pairs[leaves] - polynomial.pairs[returns]
        between[row], between[:, column] = polynomial.pairs[returns, back], polynomial.pairs[gone, leaves]


def swaps(
    polynomial: Polynomial,
    coalition: NDArray[np.bool_],
    candidates: NDArray[np.int64],
    at_most: int,
    groups: Groups | None = None,
) -> CoalitionMatrix:
    """The ``at_most`` best coalitions that swap one absent player for a present candidate."""
    back, gone, gains = swap_gains(polynomial, coalition, candidates, groups)
    at_most = min(at_most, int((gains > -np.inf).sum()))
    chosen = np.sort(np.argsort(-gains, axis=None, kind="stable")[:at_most])
    rows = np.repeat(coalition[None], len(chosen), axis=0)
    rows[np.arange(len(chosen)), back[chosen % max(1, len(back))]] = True
    rows[np.arange(len(chosen)), gone[chosen // max(1, len(back))]] = False
    return rows


def swap_gains(
    polynomial: Polynomial,
    coalition: NDArray[np.bool_],
    candidates: NDArray[np.int64],
    groups: Groups | None = None,
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """What each swap adds to the polynomial, in closed form; minus infinity between two groups.

    Returns:
        The players that may come back, those that may go, and the gains, shape (n_gone, n_back).
    """
    back, gone = _exchangeable(coalition, candidates)
    between = polynomial.pairs[np.ix_(gone, back)]
    return back, gone, _gains(_slopes(polynomial, coalition), between, back, gone, groups)


def _exchangeable(
    coalition: NDArray[np.bool_], candidates: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The candidates that are absent, and those that are present."""
    present = coalition[candidates]
    return candidates[~present], candidates[present]


def _slopes(polynomial: Polynomial, coalition: NDArray[np.bool_]) -> NDArray[np.float64]:
    """What the absence of each player adds to that of the other absent ones."""
    slopes: NDArray[np.float64] = polynomial.linear + polynomial.pairs[:, ~coalition].sum(axis=1)
    return slopes


def _gains(
    slopes: NDArray[np.float64],
    between: NDArray[np.float64],
    back: NDArray[np.int64],
    gone: NDArray[np.int64],
    groups: Groups | None,
) -> NDArray[np.float64]:
    """See `swap_gains`."""
    gains = slopes[gone][:, None] - slopes[back] - between
    if groups is not None and len(groups) > 1:
        gains[groups.labels[gone][:, None] != groups.labels[back]] = -np.inf
    return gains


def _reason(measured: float | None, evidence: Evidence, end: Outcome, finalists: int) -> str:
    counts = _counts(evidence)
    if end.value is not None and end.told_apart:
        return f"the winner of {finalists} finalists on further text, after {counts}"
    if end.value is not None:
        return (
            f"the best of {finalists} finalists on further text, where the runner-up is not told apart from "
            f"it, after {counts}"
        )
    if measured is None:
        return "the surrogate's best set; not measured"
    return f"the best set of this size among {counts}"


def _counts(evidence: Evidence) -> str:
    """How many coalitions were measured, and how many of them on all of the calibration text."""
    known, whole = len(evidence.values), int(evidence.measured.sum())
    if whole == known:
        return f"{known} measured coalitions"
    return f"{known} measured coalitions, {whole} of them on all of the text and the others on a part"
