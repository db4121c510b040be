"""Contributions of parts and experts: of each kind of cut by itself."""

from dataclasses import dataclass, field
from math import ceil

import numpy as np
from numpy.typing import NDArray

from shapcut.estimators.base import EstimationProblem, Estimator
from shapcut.estimators.surrogate import SurrogateEstimator
from shapcut.game.contributions import Contributions
from shapcut.game.groups import Groups
from shapcut.game.kinds import Kind, KindGame, kinds_of
from shapcut.game.mixed import mixed_layers
from shapcut.support.errors import InputError

SHARES = {"block": 0.1, "moe": 0.1, "expert": 0.2}
"""Of the budget, what the contributions of each kind may take."""

_FEWEST = 4
"""Coalitions that a kind is given beside single absences."""


@dataclass(frozen=True)
class MixedContributions(Contributions):
    """Contributions of parts and experts.

    Attributes:
        kinds: the kinds of cuts, each with the contributions in its own game.
    """

    kinds: tuple[tuple[Kind, Contributions], ...] = field(default=(), compare=False, repr=False)


class MixedEstimator(Estimator):
    """The default for parts and experts: the surrogate estimator for each kind of cut by itself.

    Blocks and MoE parts are measured one by one and several at once on a quarter of the text; of experts,
    first evidence is measured and main effects are fitted, with equally many of each layer absent. Nothing
    is said of how kinds interact: that is left to the search. A MoE part contributes with all its experts;
    the rest of a block contributes what the block does beyond its MoE part.
    """

    name = "mixed"
    handles_groups = True
    handles_parts = True

    def estimate(self, problem: EstimationProblem) -> Contributions:
        """See `Estimator.estimate`.

        Raises:
            InputError: if the players are not parts and experts, or the budget is too small.
        """
        if not mixed_layers(problem.players):
            raise InputError(f"estimator {self.name!r} is for --granularity mixed; choose another")
        kinds = kinds_of(problem.players, problem.game.permits)
        budgets = [self._budget(problem, kind) for kind in kinds]
        problem.require_budget(2 * sum(budgets), self.name)
        scores = None if problem.first_evidence is None else problem.first_evidence()
        found = tuple(
            (kind, self._of_kind(problem, kind, budget, scores))
            for kind, budget in zip(kinds, budgets, strict=True)
        )
        return _together(problem, found)

    def _budget(self, problem: EstimationProblem, kind: Kind) -> int:
        singles = sum(player.removable for player in kind.players) + 1
        least = _FEWEST + (0 if kind.name == "expert" else singles)
        return max(round(SHARES[kind.name] * problem.budget), least)

    def _of_kind(
        self,
        problem: EstimationProblem,
        kind: Kind,
        budget: int,
        scores: NDArray[np.float64] | None,
    ) -> Contributions:
        evidence = None
        if kind.name == "expert" and scores is not None:
            evidence = np.atleast_2d(scores)[:, [some[0] for some in kind.sets]]
        return SurrogateEstimator(share=1.0).estimate(
            EstimationProblem(
                KindGame(problem.game, kind),
                budget,
                problem.rng,
                pure_number(problem, kind),
                lambda: evidence,
            )
        )


def pure_number(problem: EstimationProblem, kind: Kind) -> int | None:
    """About how many players of one kind reach the target; None if it is unknown."""
    if problem.n_remove is None:
        return None
    needed = problem.n_remove * np.mean([player.parameters for player in problem.players])
    groups = Groups.of(kind.players)
    mean = float(np.mean([player.parameters for player in kind.players if player.removable]))
    each = ceil(float(needed) / mean / len(groups))
    return min(max(each, 1), groups.most) * len(groups)


def _together(
    problem: EstimationProblem, kinds: tuple[tuple[Kind, Contributions], ...]
) -> MixedContributions:
    """The contributions of all players, in the order of the whole game."""
    first = kinds[0][1]
    values, errors = np.full(problem.n_players, np.nan), np.full(problem.n_players, np.nan)
    owners = {layer.parts[0]: layer.owner for layer in mixed_layers(problem.players)}
    for kind, found in kinds:
        for some, value, error in zip(kind.sets, found.values, found.standard_errors, strict=True):
            values[some[0]], errors[some[0]] = value, error
    for part, owner in owners.items():
        if owner is not None and owner != part and np.isfinite(values[owner]):
            values[part] -= values[owner]
    rows = [KindGame(problem.game, kind).whole(found.coalitions) for kind, found in kinds]
    exact = [found.on_all_text for _, found in kinds]
    for known in exact[1:]:
        known[0] = False  # all players, as in the first
    estimated = [~found.on_all_text for _, found in kinds]
    chosen = [*zip(rows, kinds, exact, strict=True), *zip(rows, kinds, estimated, strict=True)]
    return MixedContributions(
        values=values,
        standard_errors=errors,
        weighting="of blocks, MoE parts and experts, each kind by itself",
        estimator=MixedEstimator.name,
        full_value=first.full_value,
        coalitions=np.vstack([some[which] for some, _, which in chosen]),
        measured=np.concatenate([found.measured[which] for _, (_, found), which in chosen]),
        estimated=np.vstack([found.estimated for _, found in kinds]),
        kinds=kinds,
    )
