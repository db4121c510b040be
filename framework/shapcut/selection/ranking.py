"""Selection by ranking: remove the lowest contributions."""

import numpy as np

from shapcut.game.feasible import permitted_sets
from shapcut.game.plan import RemovalPlan
from shapcut.selection.base import SelectionProblem, Selector
from shapcut.support.errors import InputError

_RANKED = 256


class RankingSelector(Selector):
    """Removes the players with the lowest contributions: the paper's selection."""

    name = "ranking"
    handles_groups = True

    def select(self, problem: SelectionProblem) -> RemovalPlan:
        """Remove the lowest contributions, equals by index, among removable players.

        If these may not be removed together, take the permitted set found with the lowest sum.
        """
        contributions, n_remove = problem.contributions, problem.n_remove
        if np.isnan(contributions.values).all():
            raise InputError(
                f"selector {self.name!r} has nothing to rank: estimator {contributions.estimator!r} "
                "scores no player"
            )
        groups = problem.groups
        chosen = groups.first(contributions.ranking(), n_remove)
        among = "" if len(groups) == 1 else f" among equally many of each of {len(groups)} groups"
        reason = f"the {n_remove} lowest contributions{among} ({contributions.weighting})"
        if not problem.permits(chosen):
            chosen = _lowest_permitted(problem)
            reason = (
                f"the lowest contributions of {n_remove} players that may be removed together "
                f"({contributions.weighting})"
            )
        return problem.plan(
            chosen,
            measured_value=problem.known_value(chosen),
            method=f"{contributions.estimator} + {self.name}",
            reason=reason,
        )


def _lowest_permitted(problem: SelectionProblem) -> list[int]:
    """The set with the lowest sum of contributions among many permitted ones, improved by swaps."""
    candidates, n_remove, permits = problem.candidates.tolist(), problem.n_remove, problem.permits
    groups, labels = problem.groups, problem.groups.labels
    sets = permitted_sets(candidates, n_remove, permits, _RANKED, problem.rng, groups=groups)
    if not sets:
        raise InputError(f"no permitted set of {n_remove} players was found")
    cost = problem.contributions.removal_costs
    best = min(sets, key=lambda chosen: (float(cost[list(chosen)].sum()), chosen))
    while True:
        swapped = [
            tuple(sorted({*best} - {back} | {gone}))
            for back in best
            for gone in candidates
            if cost[gone] < cost[back] and labels[gone] == labels[back]
        ]
        better = [each for each in swapped if len(each) == n_remove and permits(each)]
        if not better:
            return list(best)
        best = min(better, key=lambda chosen: (float(cost[list(chosen)].sum()), chosen))
