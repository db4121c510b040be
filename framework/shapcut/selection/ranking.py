"""Selection by ranking: the lowest contributions go."""

from collections.abc import Sequence

import numpy as np

from shapcut.estimators.sampling import removable
from shapcut.game.coalitions import Player
from shapcut.game.contributions import Contributions
from shapcut.game.feasible import Permits, permitted_sets
from shapcut.game.game import Game
from shapcut.game.plan import RemovalPlan
from shapcut.selection.base import Selector, known_value, permission, require_removable
from shapcut.support.errors import InputError

_RANKED = 256


class RankingSelector(Selector):
    """Removes the players with the lowest contributions: the paper's selection."""

    name = "ranking"

    def select(
        self,
        contributions: Contributions,
        players: Sequence[Player],
        n_remove: int,
        *,
        game: Game | None = None,
        budget: int = 0,
        finals: Sequence[Game] = (),  # noqa: ARG002 - and compares nothing
        rng: np.random.Generator,
    ) -> RemovalPlan:
        """Lowest first, equals by index; players that are not removable are passed over.

        Where those may not be removed together, the lowest sum among permitted sets that are found.

        The set's value is what the estimator measured, or measured now if the budget allows it.
        """
        require_removable(players, n_remove)
        if np.isnan(contributions.values).all():
            raise InputError(
                f"selector {self.name!r} has nothing to rank: estimator {contributions.estimator!r} "
                "says nothing of any player"
            )
        order = np.argsort(np.nan_to_num(contributions.values, nan=np.inf), kind="stable")
        chosen = [player for player in order.tolist() if players[player].removable][:n_remove]
        permits, reason = permission(players, game), "the {} lowest contributions ({})"
        if not permits(chosen):
            chosen = _lowest_permitted(contributions, players, n_remove, permits, rng)
            reason = "the lowest contributions of {} players that may go together ({})"
        return RemovalPlan.removing(
            chosen,
            len(players),
            measured_value=known_value(chosen, contributions, game, budget),
            full_value=contributions.full_value,
            method=f"{contributions.estimator} + {self.name}",
            reason=reason.format(n_remove, contributions.weighting),
        )


def _lowest_permitted(
    contributions: Contributions,
    players: Sequence[Player],
    n_remove: int,
    permits: Permits,
    rng: np.random.Generator,
) -> list[int]:
    """Of many permitted sets the one whose contributions have the lowest sum, improved by swaps."""
    candidates = removable(players).tolist()
    sets = permitted_sets(candidates, n_remove, permits, _RANKED, rng)
    if not sets:
        raise InputError(f"no permitted set of {n_remove} players was found")
    cost = np.nan_to_num(contributions.values, nan=np.inf)
    best = min(sets, key=lambda chosen: (float(cost[list(chosen)].sum()), chosen))
    while True:
        swapped = [
            tuple(sorted({*best} - {back} | {gone}))
            for back in best
            for gone in candidates
            if cost[gone] < cost[back]
        ]
        better = [each for each in swapped if len(each) == n_remove and permits(each)]
        if not better:
            return list(best)
        best = min(better, key=lambda chosen: (float(cost[list(chosen)].sum()), chosen))
