"""Selection for any target, by selectors that know only numbers of players."""

from collections.abc import Sequence

import numpy as np

from shapcut.game.budget import BudgetedGame
from shapcut.game.coalitions import Player, without
from shapcut.game.contributions import Contributions
from shapcut.game.game import Game
from shapcut.game.plan import RemovalPlan
from shapcut.game.target import RestrictedGame, Target, restricted
from shapcut.selection.base import Selector
from shapcut.selection.ranking import RankingSelector
from shapcut.support.errors import InputError


def select_for(
    selector: Selector,
    contributions: Contributions,
    players: Sequence[Player],
    target: Target,
    *,
    game: Game,
    budget: int,
    finals: Sequence[Game] = (),
    rng: np.random.Generator,
) -> RemovalPlan:
    """What a selector removes to reach a target.

    Where all candidates cost the same, it is asked once. Else it is asked for each of up to three sizes that
    a set may have, in a game that permits only sets that reach the target; the best measured one wins,
    without players that turn out superfluous. A ranking is followed until the target is reached.

    Args:
        selector: the selector.
        contributions: what the estimator found.
        players: the game's players.
        target: what is to be reached.
        game: where candidates can be measured.
        budget: how many further coalitions may be evaluated.
        finals: the same game on further pieces of text.
        rng: source of all randomness.

    Raises:
        InputError: if no permitted set reaches the target.
    """
    size = target.sizes()[0]
    if target.is_count:
        whole = all(not player.removable or target.costs[player.index] > 0 for player in players)
        inner = game if whole else RestrictedGame(game, target)
        chosen = players if whole else restricted(players, target)
        return selector.select(contributions, chosen, size, game=inner, budget=budget, finals=finals, rng=rng)
    order = cheapest_first(contributions, target)
    followed = target.complete(_ranking(contributions))
    if isinstance(selector, RankingSelector) and game.permits(followed):
        reason = f"the lowest contributions until {target.text} is reached ({contributions.weighting})"
        method = f"{contributions.estimator} + {selector.name}"
        plan = RemovalPlan.removing(followed, len(players), method=method, reason=reason)
        return _measured(plan, contributions, BudgetedGame(game, budget))
    inner, chosen = RestrictedGame(game, target), restricted(players, target)
    plans = list[RemovalPlan]()
    problem = InputError(f"{target.text}: no permitted set was found")
    counted = BudgetedGame(inner, budget)
    sizes = target.sizes_around(order)
    sizes += [other for other in target.sizes() if other not in sizes]
    for tried, wanted in enumerate(sizes):
        if tried > 2 and plans:  # noqa: PLR2004 - further sizes only where those permit nothing
            break
        share = counted.remaining // max(1, min(3, len(sizes)) - tried)
        try:
            plans.append(
                selector.select(
                    contributions, chosen, wanted, game=counted, budget=share, finals=finals, rng=rng
                )
            )
        except InputError as error:
            problem = error
    if not plans:
        raise problem
    compared = all(plan.final_value is not None for plan in plans)
    best = max(plans, key=lambda plan: _worth(plan, final=compared))
    return _without_superfluous(best, contributions, target, counted)


def cheapest_first(contributions: Contributions, target: Target) -> list[int]:
    """Players by contribution over cost, lowest first."""
    worth = np.nan_to_num(contributions.values, nan=np.inf)
    costs = np.array(target.costs)
    ratio = np.where(costs > 0, worth / np.where(costs > 0, costs, 1.0), np.inf)
    return [int(player) for player in np.argsort(ratio, kind="stable") if costs[player] > 0]


def _ranking(contributions: Contributions) -> list[int]:
    """Players by contribution, lowest first."""
    order = np.argsort(np.nan_to_num(contributions.values, nan=np.inf), kind="stable")
    return [int(player) for player in order]


def _worth(plan: RemovalPlan, *, final: bool) -> float:
    """The value on the finalists' text if all plans have one, else the measured or the predicted one."""
    if final and plan.final_value is not None:
        return plan.final_value
    measured = plan.measured_value if plan.measured_value is not None else plan.predicted_value
    return -np.inf if measured is None else measured


def _without_superfluous(
    plan: RemovalPlan, contributions: Contributions, target: Target, game: BudgetedGame
) -> RemovalPlan:
    """The plan without players that the target does not need, if that may be removed."""
    worth = np.nan_to_num(contributions.values, nan=np.inf)
    smaller = target.trimmed(sorted(plan.removed, key=lambda player: worth[player]))
    if smaller == plan.removed or not game.permits(smaller):
        return plan
    fewer = RemovalPlan.removing(
        smaller, game.n_players, method=plan.method, reason=f"{plan.reason}, without what is not needed"
    )
    return _measured(fewer, contributions, game)


def _measured(plan: RemovalPlan, contributions: Contributions, game: BudgetedGame) -> RemovalPlan:
    """The plan with its value, if that is known or the budget allows it."""
    coalition = without(game.n_players, [plan.removed])
    known = contributions.measured[(contributions.coalitions == coalition).all(axis=1)]
    if not len(known) and (game.remaining or all(game.is_known(coalition))):
        known = game.values(coalition)
    value = float(known[0]) if len(known) and np.isfinite(known[0]) else None
    return plan.model_copy(update={"measured_value": value, "full_value": contributions.full_value})
