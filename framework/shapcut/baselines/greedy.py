"""Greedy search: remove what hurts least, measure again, and so on."""

from collections.abc import Sequence

import numpy as np

from shapcut.estimators.sampling import removable
from shapcut.game.budget import BudgetedGame
from shapcut.game.coalitions import Player, Values, keys, without
from shapcut.game.contributions import Contributions
from shapcut.game.feasible import steps
from shapcut.game.game import Game
from shapcut.game.plan import RemovalPlan
from shapcut.selection.base import Selector, require_removable
from shapcut.support.errors import InputError, ShapcutError


def greedy_evaluations(n_candidates: int, n_remove: int) -> int:
    """Coalitions that a greedy search measures: all candidates, all but one, and so on."""
    return sum(n_candidates - removed for removed in range(n_remove))


class GreedySelector(Selector):
    """Removes the best player of all that are left, one after the other.

    Source: SLEB, Song et al., arXiv 2402.09025, section 3.3. Where no single further player may be removed,
    pairs and runs of neighbours are tried. Values that the estimator has measured are not measured again.
    """

    name = "greedy"

    def select(
        self,
        contributions: Contributions,
        players: Sequence[Player],
        n_remove: int,
        *,
        game: Game | None = None,
        budget: int = 0,
        finals: Sequence[Game] = (),  # noqa: ARG002 - nothing is compared again
        rng: np.random.Generator,  # noqa: ARG002 - nothing is random
    ) -> RemovalPlan:
        """See `Selector.select`.

        Raises:
            InputError: if there is no game, the budget is too small, or the search comes to a set from which
                no permitted step leads on.
            ShapcutError: if no candidate of a step has a finite value.
        """
        require_removable(players, n_remove)
        if game is None:
            raise InputError(f"selector {self.name!r} measures sets: it needs a game")
        needed = greedy_evaluations(len(removable(players)), n_remove)
        if budget + contributions.evaluations < needed:
            raise InputError(
                f"selector {self.name!r} needs a budget of {needed} coalitions, {budget} are left"
            )
        search = _Search(BudgetedGame(game, budget), contributions)
        removed: tuple[int, ...] = ()
        best = -np.inf
        while len(removed) < n_remove:
            sets = _extensions(removed, players, n_remove, game)
            if not sets:
                raise InputError(
                    f"selector {self.name!r}: having removed {list(removed)}, no permitted step leads to "
                    f"{n_remove} players; the selector 'search' finds other sets"
                )
            values = np.nan_to_num(search.values(sets), nan=-np.inf)
            winner = int(np.argmax(values))
            removed, best = sets[winner], float(values[winner])
            if not np.isfinite(best):
                raise ShapcutError(f"none of {len(sets)} sets of {len(removed)} players has a finite value")
        return RemovalPlan.removing(
            removed,
            len(players),
            measured_value=best,
            full_value=contributions.full_value,
            method=self.name,
            reason=f"greedy: at each step the best of all further players, {search.asked} sets measured",
        )


class _Search:
    """Values of sets: what the estimator knows, else what the game says."""

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


def _extensions(
    removed: tuple[int, ...], players: Sequence[Player], n_remove: int, game: Game
) -> list[tuple[int, ...]]:
    """The permitted sets that are larger by the smallest step that is possible."""
    present = [player for player in removable(players).tolist() if player not in removed]
    further = steps(present, n_remove - len(removed))
    for size in sorted({len(step) for step in further}):
        larger = {tuple(sorted((*removed, *step))) for step in further if len(step) == size}
        permitted = sorted(candidate for candidate in larger if game.permits(candidate))
        if permitted:
            return permitted
    return []
