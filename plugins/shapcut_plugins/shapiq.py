"""Shapley values by any approximator of the package shapiq."""

import importlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shapcut.contracts import (
    BudgetedGame,
    BudgetExceededError,
    CoalitionMatrix,
    Contributions,
    EstimationProblem,
    Estimator,
    InputError,
    ShapcutError,
    Values,
)

_INDEX = "SV"
_ATTEMPTS = 20


class ShapiqEstimator(Estimator):
    """An approximator of shapiq, by name; players that are not removable are always present.

    shapiq reports no standard errors. An approximator that asks for more distinct coalitions than the budget
    allows (some add a few) runs again with fewer; measured values are reused and the budget is kept.

    Args:
        approximator: the name of a class in ``shapiq.approximator`` that estimates Shapley values.

    Raises:
        InputError: if shapiq is not installed or has no such approximator.
    """

    name = "shapiq"

    def __init__(self, approximator: str) -> None:
        known = approximators()
        if approximator not in known:
            raise InputError(
                f"estimator 'shapiq' knows no approximator {approximator!r}; "
                f"choose from {', '.join(sorted(known))}"
            )
        self.approximator = approximator
        self._make = known[approximator]

    def estimate(self, problem: EstimationProblem) -> Contributions:
        """See `Estimator.estimate`.

        Raises:
            InputError: also if the approximator fails, for example because its budget is too small.
        """
        budget, players = problem.budget, problem.candidates.tolist()
        counted, seed = BudgetedGame(problem.game, budget), int(problem.rng.integers(2**31))
        ends = np.ones((2, problem.n_players), dtype=np.bool_)
        ends[1, players] = False
        problem.require_budget(len(ends) + 1, self.name)
        full, empty = counted.values(ends)
        given = budget
        for _ in range(_ATTEMPTS):
            try:
                found = self._run(_Players(counted, players), float(empty), given, seed)
                break
            except BudgetExceededError:
                given = given - max(1, given // 20)
        else:
            raise InputError(f"shapiq's {self.approximator} does not keep to a budget of {budget} coalitions")
        coalitions, measured = counted.evaluated()
        return Contributions(
            values=problem.spread(found),
            standard_errors=np.full(problem.n_players, np.nan),
            weighting=f"the Shapley weights, by shapiq's {self.approximator}",
            estimator=f"{self.name}:{self.approximator}",
            full_value=float(full) if np.isfinite(full) else None,
            coalitions=coalitions,
            measured=measured,
            refit=self._refit(problem, coalitions, given, seed),
        )

    def _run(self, game: "_Players", empty: float, budget: int, seed: int) -> NDArray[np.float64]:
        """The approximator's values of the removable players."""
        try:
            approximator = self._make(n=len(game.players), random_state=seed)
            values = approximator.approximate(budget, _shapiq_game(game, empty))
        except ShapcutError:
            raise
        except Exception as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise InputError(
                f"shapiq's {self.approximator} fails with a budget of {budget} coalitions: {reason}"
            ) from error
        return np.array([values[(player,)] for player in range(len(game.players))], dtype=np.float64)

    def _refit(
        self, problem: EstimationProblem, coalitions: CoalitionMatrix, budget: int, seed: int
    ) -> Callable[[Values, np.random.Generator | None], NDArray[np.float64] | None]:
        """A refit that runs again on other values; None if it then requests other coalitions."""

        def refit(values: Values, rng: np.random.Generator | None) -> NDArray[np.float64] | None:
            if rng is not None or not np.isfinite(values).all():
                return None
            recorded = _Recorded(dict(zip(map(bytes, coalitions), values.tolist(), strict=True)))
            game = _Players(recorded, problem.candidates.tolist(), problem.n_players)
            try:
                found = self._run(game, float(values[1]), budget, seed)
            except BudgetExceededError:
                return None
            return problem.spread(found)

        return refit


@dataclass(frozen=True, slots=True)
class _Recorded:
    """A game of recorded values."""

    values_by_row: Mapping[bytes, float]

    def values(self, coalitions: CoalitionMatrix) -> Values:
        try:
            return np.array([self.values_by_row[bytes(row)] for row in coalitions], dtype=np.float64)
        except KeyError as error:
            raise BudgetExceededError("a requested coalition was not measured") from error


class _Players:
    """A game of the removable players only.

    Raises:
        InputError: if a coalition has no finite value; shapiq's approximators cannot leave one out.
    """

    def __init__(self, game: Any, players: list[int], n_players: int | None = None) -> None:
        self.game = game
        self.players = players
        self.n_players: int = n_players or game.n_players

    def values(self, coalitions: CoalitionMatrix) -> Values:
        rows = np.ones((len(coalitions), self.n_players), dtype=np.bool_)
        rows[:, self.players] = coalitions
        values: Values = self.game.values(rows)
        if not np.isfinite(values).all():
            raise InputError(
                "a coalition has no finite value, which shapiq cannot leave out: use 'permutation'"
            )
        return values


def approximators() -> dict[str, Callable[..., Any]]:
    """Shapiq's approximators of Shapley values by name; call them with ``n`` and ``random_state``.

    Raises:
        InputError: if shapiq is not installed.
    """
    try:
        module = importlib.import_module("shapiq.approximator")
    except ImportError as error:
        raise InputError(
            "estimator 'shapiq' needs the package shapiq: pip install 'shapcut[shapiq]'"
        ) from error
    found = {}
    for name in module.__all__:
        kind = getattr(module, name)
        if inspect.isclass(kind) and _INDEX in getattr(kind, "valid_indices", ()):
            options = {"index": _INDEX, "max_order": 1}
            accepted = inspect.signature(kind.__init__).parameters
            found[name] = _maker(kind, {key: value for key, value in options.items() if key in accepted})
    return found


def _maker(kind: Any, options: Mapping[str, Any]) -> Callable[..., Any]:
    return lambda **others: kind(**options, **others)


def _shapiq_game(game: _Players, empty: float) -> Any:
    """The game in shapiq's form: the empty coalition is worth 0."""
    base: Any = importlib.import_module("shapiq").Game

    class Adapted(base):  # type: ignore[misc]
        def value_function(self, coalitions: CoalitionMatrix) -> Values:
            return game.values(np.asarray(coalitions, dtype=np.bool_))

    return Adapted(n_players=len(game.players), normalize=True, normalization_value=empty)
