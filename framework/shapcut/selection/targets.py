"""Selection for any target, by selectors that remove a number of players."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from shapcut.estimators.base import EstimationProblem
from shapcut.estimators.surrogate import SurrogateEstimator
from shapcut.game.budget import BudgetedGame
from shapcut.game.coalitions import Player, finite_or_none, without
from shapcut.game.contributions import Contributions
from shapcut.game.game import Game
from shapcut.game.groups import Groups
from shapcut.game.kinds import Kind, KindGame, blocks_of
from shapcut.game.plan import RemovalPlan
from shapcut.game.target import RestrictedGame, Target
from shapcut.selection.base import SelectionProblem, Selector, TargetSelector
from shapcut.selection.part_moves import come_in_parts
from shapcut.selection.ranking import RankingSelector
from shapcut.selection.search import SearchSelector
from shapcut.support.errors import InputError, ShapcutError

_LIKELY_SIZES = 3
_OF_BLOCKS, _FEWEST_OF_BLOCKS = 0.4, 4
"""Of the budget, what the search for whole blocks may take in a game of their parts, and what it needs beside
one coalition for each block."""


def select_for(
    selector: Selector,
    contributions: Contributions,
    target: Target,
    *,
    game: Game,
    budget: int,
    finals: Sequence[Game] = (),
    rng: np.random.Generator,
) -> RemovalPlan:
    """Remove players until a target is reached.

    If all candidates cost the same, the selector runs once. Otherwise it runs for up to three set sizes, in a
    game that permits only sets that reach the target; the best measured set wins and loses its superfluous
    players. A ranking is followed until the target is reached. In a game of parts of blocks, a search begins
    with the best cut of whole blocks, which is searched for first.

    Args:
        selector: the selector.
        contributions: the estimator's result.
        target: the target.
        game: the game to measure candidates in.
        budget: number of further distinct coalitions that may be measured.
        finals: the same game on further texts of equal length.
        rng: source of all randomness.

    Raises:
        InputError: if no permitted set reaches the target.
    """
    if isinstance(selector, TargetSelector):
        return selector.select_target(contributions, target, game=game, budget=budget, finals=finals, rng=rng)
    starts: list[tuple[int, ...]] = []
    if selector.takes_starts and come_in_parts(game.players):
        counted = BudgetedGame(game, _budget_of_blocks(budget, game.players))
        starts = best_blocks(counted, target, rng)
        budget -= counted.budget - counted.remaining
    problem = SelectionProblem(
        contributions,
        game.players,
        target.sizes()[0],
        game=game,
        budget=budget,
        finals=finals,
        starts=starts,
        rng=rng,
    )
    restricting = RestrictedGame(game, target)
    within = replace(problem, players=restricting.players, game=restricting)
    if target.is_count:
        return selector.select(problem if restricting.players == game.players else within)
    followed = target.complete(contributions.ranking())
    if isinstance(selector, RankingSelector) and game.permits(followed):
        plan = problem.plan(
            followed,
            method=f"{contributions.estimator} + {selector.name}",
            reason=f"the lowest contributions until {target.text} is reached ({contributions.weighting})",
        )
        return _measured(plan, contributions, BudgetedGame(game, budget))
    return _best_of_sizes(selector, within, BudgetedGame(restricting, budget), target)


def _best_of_sizes(
    selector: Selector, problem: SelectionProblem, game: BudgetedGame, target: Target
) -> RemovalPlan:
    """The best plan for the likeliest sizes, or for the first other size that permits one."""
    plans = list[RemovalPlan]()
    failure = InputError(f"{target.text}: no permitted set was found")
    sizes = [len(start) for start in problem.starts if len(start) in target.sizes()]
    sizes = list(dict.fromkeys([*sizes, *target.sizes_around(cheapest_first(problem.contributions, target))]))
    sizes += [other for other in target.sizes() if other not in sizes]
    for tried, size in enumerate(sizes):
        if tried >= _LIKELY_SIZES and plans:
            break
        share = game.remaining // max(1, min(_LIKELY_SIZES, len(sizes)) - tried)
        try:
            plans.append(selector.select(replace(problem, n_remove=size, game=game, budget=share)))
        except InputError as error:
            failure = error
    if not plans:
        raise failure
    compared = all(plan.final_value is not None for plan in plans)
    best = max(plans, key=lambda plan: _worth(plan, final=compared))
    return _without_superfluous(best, problem.contributions, target, game)


def cheapest_first(contributions: Contributions, target: Target) -> list[int]:
    """Candidates by contribution over cost, lowest first."""
    costs = np.array(target.costs)
    ratio = np.where(costs > 0, contributions.removal_costs / np.where(costs > 0, costs, 1.0), np.inf)
    return [int(player) for player in np.argsort(ratio, kind="stable") if costs[player] > 0]


def _worth(plan: RemovalPlan, *, final: bool) -> float:
    """The final value if all plans have one, else the measured or the predicted value."""
    if final and plan.final_value is not None:
        return plan.final_value
    measured = plan.measured_value if plan.measured_value is not None else plan.predicted_value
    return -np.inf if measured is None else measured


def _without_superfluous(
    plan: RemovalPlan, contributions: Contributions, target: Target, game: BudgetedGame
) -> RemovalPlan:
    """The plan without players that the target does not need, if the smaller set may be removed."""
    costs = contributions.removal_costs
    smaller = target.trimmed(sorted(plan.removed, key=lambda player: costs[player]))
    if smaller == plan.removed or not game.permits(smaller):
        return plan
    fewer = RemovalPlan.removing(
        smaller, game.n_players, method=plan.method, reason=f"{plan.reason}, without superfluous players"
    )
    return _measured(fewer, contributions, game)


def _measured(plan: RemovalPlan, contributions: Contributions, game: BudgetedGame) -> RemovalPlan:
    """The plan with its measured value, if it is known or the budget allows it."""
    coalition = without(game.n_players, [plan.removed])
    known = contributions.lookup(plan.removed)
    if not len(known) and (game.remaining or all(game.is_known(coalition))):
        known = game.values(coalition)
    value = finite_or_none(known[0]) if len(known) else None
    return plan.model_copy(update={"measured_value": value, "full_value": contributions.full_value})


def _budget_of_blocks(budget: int, players: Sequence[Player]) -> int:
    """The share of a budget, but enough to measure each block alone if the budget is that large."""
    blocks = sum(block.removable for block in blocks_of(players).players)
    return min(budget, max(round(_OF_BLOCKS * budget), blocks + _FEWEST_OF_BLOCKS))


def best_blocks(game: BudgetedGame, target: Target, rng: np.random.Generator) -> list[tuple[int, ...]]:
    """The best cut of whole blocks in a game of their parts, as a list; empty if the budget is too small.

    Contributions of blocks are estimated by themselves: those of their parts say little of pairs of blocks.
    """
    kind = blocks_of(game.players)
    if all(len(some) == 1 for some in kind.sets):
        return []
    own = KindGame(game, kind)
    try:
        whole = target_of_kind(target, kind)
        estimated = SurrogateEstimator().estimate(
            EstimationProblem(own, game.remaining, rng, whole.typical_size())
        )
        plan = select_for(SearchSelector(), estimated, whole, game=own, budget=game.remaining, rng=rng)
    except ShapcutError:
        return []
    return [tuple(kind.whole_set(plan.removed))]


def target_of_kind(target: Target, kind: Kind) -> Target:
    """The same target for the players of one kind.

    Raises:
        InputError: if they cannot reach it.
    """
    costs = zip(kind.players, kind.costs(target.costs), strict=True)
    gains = tuple(cost if player.removable else 0.0 for player, cost in costs)
    return replace(target, costs=gains, number=None).by_group(Groups.of(kind.players))
