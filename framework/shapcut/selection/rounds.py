"""The rounds of a search: fit, propose, measure, until nothing better is found."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from itertools import islice
from typing import Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from shapcut.game.budget import BudgetedGame
from shapcut.game.coalitions import CoalitionMatrix, Values, absent_players, distinct, keys
from shapcut.game.feasible import Permits
from shapcut.game.surrogate import Surrogate
from shapcut.selection.base import SelectionProblem
from shapcut.selection.race import Heats
from shapcut.support.errors import InputError

_GROWTH = 64
"""A round measures at least one coalition for this many known ones, so that rounds stay few."""

S = TypeVar("S", bound=Surrogate)


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
        """This evidence and finite further values, which replace estimates of the same coalitions."""
        usable, new = np.isfinite(values), set(keys(coalitions))
        kept, estimated = np.ones(len(self.values), dtype=np.bool_), np.flatnonzero(~self.measured)
        kept[estimated] = [key not in new for key in keys(self.coalitions[estimated])]
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


class SearchOptions(Protocol):
    """See `shapcut.selection.search.SearchSelector`."""

    batch: int
    exploration: float
    patience: int
    starts: int
    finalists: int


@dataclass(slots=True)
class Rounds(ABC, Generic[S]):
    """The rounds of one search with a kind of surrogate.

    Attributes:
        options: the selector's options.
        problem: what to select.
    """

    options: SearchOptions
    problem: SelectionProblem

    @abstractmethod
    def fit(self, evidence: Evidence) -> S:
        """A surrogate of all evidence."""

    @abstractmethod
    def propose(self, surrogate: S, evidence: Evidence, count: int, *, last: bool = False) -> CoalitionMatrix:
        """Sets of the right size in the order to measure.

        The last round does not explore, since no later round could use the result.
        """

    @abstractmethod
    def most_valuable(self, surrogate: S, evidence: Evidence) -> CoalitionMatrix:
        """Sets of the right size by value, measured or else predicted, best first."""

    @property
    def patience(self) -> int:
        """Rounds without a new leader after which the search stops."""
        return self.options.patience

    def best(self, evidence: Evidence, at_most: int) -> CoalitionMatrix:
        """The best measured sets of the right size that may be removed."""
        return evidence.best(self.problem.n_remove, self.problem.permits, at_most)

    def leaders(self, surrogate: S, evidence: Evidence) -> CoalitionMatrix:
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
        while stale < self.patience and game.remaining > 0:
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

    def by_value(self, pool: CoalitionMatrix, surrogate: S, evidence: Evidence) -> CoalitionMatrix:
        """The best measured sets and those of a pool, by value, measured or else predicted."""
        measured = self.best(evidence, self.options.starts)
        pool = distinct(np.vstack([measured, pool]))
        known = dict(zip(keys(evidence.coalitions), evidence.values.tolist(), strict=True))
        predicted = zip(keys(pool), surrogate.predict(pool).tolist(), strict=True)
        values = np.array([known.get(key, value) for key, value in predicted], dtype=np.float64)
        return pool[np.argsort(-values, kind="stable")]


def permitted(coalitions: CoalitionMatrix, permits: Permits, at_most: int) -> CoalitionMatrix:
    """The first rows whose absent players may be removed together; stops after ``at_most``."""
    rows = (row for row, coalition in enumerate(coalitions) if permits(absent_players(coalition)))
    return coalitions[list(islice(rows, at_most))]
