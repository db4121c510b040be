"""Selectors: from contributions to the set of players to remove."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np

from shapcut.coalitions import CoalitionMatrix, Player, without
from shapcut.contributions import Contributions
from shapcut.errors import InputError
from shapcut.game import Game
from shapcut.permitted import Permits, permitted_sets
from shapcut.plan import RemovalPlan
from shapcut.sampling import removable

_RANKED = 256


class Selector(ABC):
    """Chooses what to remove; its options are its constructor's keyword arguments."""

    name: str

    @abstractmethod
    def select(
        self,
        contributions: Contributions,
        players: Sequence[Player],
        n_remove: int,
        *,
        game: Game | None = None,
        budget: int = 0,
        finals: Sequence[Game] = (),
        rng: np.random.Generator,
    ) -> RemovalPlan:
        """Choose ``n_remove`` players.

        Args:
            contributions: what the estimator found.
            players: the game's players.
            n_remove: how many to remove.
            game: where candidates can be measured; without it the choice rests on the surrogate.
            budget: how many further coalitions may be evaluated.
            finals: the same game on further pieces of text, equally long, to compare the few best sets on.
            rng: source of all randomness.

        Raises:
            InputError: if no permitted set of that size exists.
        """


def require_removable(players: Sequence[Player], n_remove: int) -> None:
    """Check that ``n_remove`` players can go and at least one stays.

    Raises:
        InputError: otherwise.
    """
    most = min(len(removable(players)), len(players) - 1)
    if not 1 <= n_remove <= most:
        raise InputError(f"cannot remove {n_remove} of {len(players)} players: choose 1 to {most}")


def permission(players: Sequence[Player], game: Game | None) -> Permits:
    """Whether a set may be removed: the game's answer, or without a game what the players say."""
    if game is not None:
        return game.permits
    return lambda absent: all(players[player].removable for player in absent)


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
        order = np.argsort(np.nan_to_num(contributions.values, nan=np.inf), kind="stable")
        chosen = [player for player in order.tolist() if players[player].removable][:n_remove]
        permits, reason = permission(players, game), "the {} lowest contributions ({})"
        if not permits(chosen):
            chosen = _lowest_permitted(contributions, players, n_remove, permits, rng)
            reason = "the lowest contributions of {} players that may go together ({})"
        return RemovalPlan.removing(
            chosen,
            len(players),
            measured_value=_value_of(without(len(players), [chosen]), contributions, game, budget),
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


def _value_of(
    chosen: CoalitionMatrix, contributions: Contributions, game: Game | None, budget: int
) -> float | None:
    """The value of the one row of ``chosen``, or None if it is not known, not to be had or not finite."""
    measured = contributions.measured[(contributions.coalitions == chosen).all(axis=1)]
    if not len(measured) and game is not None and budget > 0:
        measured = game.values(chosen)
    return float(measured[0]) if len(measured) and np.isfinite(measured[0]) else None
