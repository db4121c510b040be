"""Selection for any target, by selectors that remove a number of players."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from shapcut.game.budget import BudgetedGame
from shapcut.game.coalitions import finite_or_none, without
from shapcut.game.contributions import Contributions
from shapcut.game.game import Game
from shapcut.game.plan import RemovalPlan
from shapcut.game.target import RestrictedGame, Target
from shapcut.selection.base import SelectionProblem, Selector, TargetSelector
from shapcut.selection.ranking import RankingSelector
from shapcut.support.errors import InputError

_LIKELY_SIZES = 3


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
    players. A ranking is followed until the target is reached.

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
    problem = SelectionProblem(
        contributions, game.players, target.sizes()[0], game=game, budget=budget, finals=finals, rng=rng
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
    sizes = target.sizes_around(cheapest_first(problem.contributions, target))
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
