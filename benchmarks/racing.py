"""What measuring on parts of the text saves and costs: coalitions charged, and how good the chosen set is.

    python benchmarks/racing.py        some minutes

Five of 20 blocks are removed in the synthetic games of siblings.py. Each window of text adds random effects
of single blocks to a game's value. The default estimator and search run once with all windows, and once with
a quarter of them for the surrogate and a quarter, half and all for the candidates of the search. *Regret* is
how much lower the chosen set's value on unlimited text is than the best set's, in nats.
"""

import platform
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from shapcut.estimators.base import EstimationProblem
from shapcut.estimators.surrogate import SurrogateEstimator
from shapcut.game.budget import BudgetedGame
from shapcut.game.coalitions import CoalitionMatrix, Player, without
from shapcut.game.game import Measurements, WindowedGame, WindowMeans, WindowPart, over_text
from shapcut.selection.base import SelectionProblem
from shapcut.selection.search import SearchSelector
from shapcut.support.files import write_json_atomically
from siblings import FEWER, FEWER_BUDGET, FEWER_REMOVE, synthetic

RESULT = Path(__file__).parent / "results" / "racing.json"
SEEDS = range(24)
TEXTS = ((10, 0.03), (10, 0.1), (40, 0.2))
"""Number of windows, and the standard deviation of a block's effect on one of them, in nats."""


class OnWindows(WindowedGame):
    """A synthetic game seen through a few windows of text.

    Args:
        seed: of the game and of its windows.
        windows: how many.
        noise: standard deviation of a block's effect on one window.
        parts: whether coalitions may be measured on fewer windows.
    """

    def __init__(self, seed: int, windows: int, noise: float, *, parts: bool) -> None:
        self._game = synthetic(seed, FEWER)
        self._effects = np.random.default_rng([seed, windows]).normal(0.0, noise, (FEWER, windows))
        self._parts = parts
        self._arguments = seed, noise

    @property
    def players(self) -> tuple[Player, ...]:
        """The synthetic game's players."""
        return self._game.players

    @property
    def windows(self) -> int:
        """How many."""
        return self._effects.shape[1]

    @property
    def tokens(self) -> int:
        """One a window."""
        return self.windows

    @property
    def narrowing_unit(self) -> int:
        """A window, if there are parts."""
        return int(self._parts)

    def narrowed(self, tokens: int) -> "OnWindows":
        """The same on the first windows."""
        if tokens >= self.windows:
            return self
        seed, noise = self._arguments
        fewer = OnWindows(seed, tokens, noise, parts=self._parts)
        fewer._effects = self._effects[:, :tokens]
        return fewer

    def window_parts(self, coalitions: CoalitionMatrix, first: int, last: int) -> Iterator[WindowPart]:
        """The game's value and the windows' own effects."""
        own = (~coalitions).astype(np.float64) @ self._effects[:, first:last]
        yield WindowPart(np.arange(len(coalitions)), first, self._game.values(coalitions)[:, None] - own)

    def combined(self, means: WindowMeans, full: WindowMeans | None = None) -> Measurements:  # noqa: ARG002
        """The mean over windows."""
        return over_text(means)


def searched(seed: int, windows: int, noise: float, *, parts: bool) -> tuple[float, float]:
    """The regret of the chosen set, and the coalitions charged in all."""
    game = OnWindows(seed, windows, noise, parts=parts)
    rng = np.random.default_rng(seed)
    counted = BudgetedGame(game, FEWER_BUDGET)
    found = SurrogateEstimator().estimate(EstimationProblem(counted, FEWER_BUDGET, rng, FEWER_REMOVE))
    problem = SelectionProblem(
        found, game.players, FEWER_REMOVE, game=counted, budget=counted.remaining, rng=rng
    )
    plan = SearchSelector().select(problem)
    everything = without(FEWER, list(combinations(range(FEWER), FEWER_REMOVE)))
    truth = synthetic(seed, FEWER)
    chosen = truth.values(without(FEWER, [plan.removed]))[0]
    return float(truth.values(everything).max() - chosen), counted.cost.tokens / windows


def row(windows: int, noise: float) -> dict[str, Any]:
    """Means and standard errors over the seeds, of both ways and of their difference."""
    found = np.array(
        [[searched(seed, windows, noise, parts=parts) for parts in (False, True)] for seed in SEEDS]
    )
    plain, raced = found[:, 0], found[:, 1]
    return {
        "windows": windows,
        "noise": noise,
        "regret": {"all text": plain[:, 0].mean(), "parts": raced[:, 0].mean()},
        "difference of regrets": _mean_and_error(raced[:, 0] - plain[:, 0]),
        "coalitions": {"all text": plain[:, 1].mean(), "parts": raced[:, 1].mean()},
        "difference of coalitions": _mean_and_error(raced[:, 1] - plain[:, 1]),
    }


def _mean_and_error(values: np.ndarray[Any, np.dtype[np.float64]]) -> list[float]:
    return [float(values.mean()), float(values.std(ddof=1) / len(values) ** 0.5)]


def main() -> None:
    """Measure all rows and write them."""
    content = {
        "command": "python benchmarks/racing.py",
        "machine": platform.machine(),
        "seeds": len(SEEDS),
        "budget": FEWER_BUDGET,
        "rows": [row(windows, noise) for windows, noise in TEXTS],
    }
    write_json_atomically(RESULT, content)


if __name__ == "__main__":
    main()
