"""Greedy search: remove the player whose loss costs least, measure again, and repeat."""

from collections.abc import Sequence

import numpy as np

from shapcut.game.budget import BudgetedGame
from shapcut.game.coalitions import Values, keys, without
from shapcut.game.contributions import Contributions
from shapcut.game.feasible import steps
from shapcut.game.plan import RemovalPlan
from shapcut.selection.base import SelectionProblem, Selector
from shapcut.support.errors import InputError, ShapcutError


def greedy_evaluations(n_candidates: int, n_remove: int, n_groups: int = 1) -> int:
    """Number of coalitions that a greedy search measures."""
    return sum(n_candidates // n_groups - removed // n_groups for removed in range(n_remove))


class GreedySelector(Selector):
    """Removes players one by one, each time the best of the remaining ones.

    Source: SLEB, Song et al., arXiv 2402.09025, section 3.3. If no single further player may be removed,
    pairs and runs of neighbours are tried. The estimator's measurements are reused. Players that have groups
    are removed from one group after the other, in turns.
    """

    name = "greedy"
    handles_groups = True

    def select(self, problem: SelectionProblem) -> RemovalPlan:
        """See `Selector.select`.

        Raises:
            InputError: if there is no game, the budget is too small, or the search reaches a set without a
                permitted next step.
            ShapcutError: if no candidate of a step has a finite value.
        """
        game = problem.require_game(self.name)
        contributions, n_remove = problem.contributions, problem.n_remove
        needed = greedy_evaluations(len(problem.candidates), n_remove, len(problem.groups))
        if problem.budget + contributions.evaluations < needed:
            raise InputError(
                f"selector {self.name!r} needs a budget of {needed} coalitions, {problem.budget} are left"
            )
        search = _Search(BudgetedGame(game, problem.budget), contributions)
        removed: tuple[int, ...] = ()
        best = -np.inf
        while len(removed) < n_remove:
            sets = _extensions(removed, problem)
            if not sets:
                raise InputError(
                    f"selector {self.name!r}: after removing {list(removed)}, no permitted step leads to "
                    f"{n_remove} players; use the selector 'search'"
                )
            values = np.nan_to_num(search.values(sets), nan=-np.inf)
            winner = int(np.argmax(values))
            removed, best = sets[winner], float(values[winner])
            if not np.isfinite(best):
                raise ShapcutError(f"none of {len(sets)} sets of {len(removed)} players has a finite value")
        return problem.plan(
            removed,
            measured_value=best,
            method=self.name,
            reason=f"greedy: at each step the best of all remaining players, {search.asked} sets measured",
        )


class _Search:
    """Values of sets, from the estimator's measurements or the game."""

    def __init__(self, game: BudgetedGame, contributions: Contributions) -> None:
        self._game = game
        measured = contributions.measured.tolist()
        self._known = dict(zip(keys(contributions.coalitions), measured, strict=True))
        self.asked = 0

    def values(self, sets: Sequence[tuple[int, ...]]) -> Values:
        coalitions = without(self._game.n_players, sets)
        names = keys(coalitions)
        fresh = [row for row, name in enumerate(names) if name not in self._known]
        if fresh:
            measured = self._game.values(coalitions[fresh]).tolist()
            self._known.update(zip((names[row] for row in fresh), measured, strict=True))
        self.asked += len(sets)
        return np.array([self._known[name] for name in names], dtype=np.float64)


def _extensions(removed: tuple[int, ...], problem: SelectionProblem) -> list[tuple[int, ...]]:
    """The permitted supersets by the smallest possible step."""
    if len(problem.groups) > 1:
        return _one_more_of_a_group(removed, problem)
    present = [player for player in problem.candidates.tolist() if player not in removed]
    further = steps(present, problem.n_remove - len(removed))
    for size in sorted({len(step) for step in further}):
        larger = {tuple(sorted((*removed, *step))) for step in further if len(step) == size}
        permitted = sorted(candidate for candidate in larger if problem.permits(candidate))
        if permitted:
            return permitted
    return []


def _one_more_of_a_group(removed: tuple[int, ...], problem: SelectionProblem) -> list[tuple[int, ...]]:
    """The supersets by one player of the group whose turn it is; only those of full size need permission."""
    members = problem.groups.members[len(removed) % len(problem.groups)]
    larger = [tuple(sorted((*removed, player))) for player in members.tolist() if player not in removed]
    if len(removed) + 1 < problem.n_remove:
        return larger
    return [candidate for candidate in larger if problem.permits(candidate)]
