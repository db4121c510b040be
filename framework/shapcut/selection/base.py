"""Selectors: from contributions to the set of players to remove."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np

from shapcut.estimators.sampling import removable
from shapcut.game.coalitions import Player, without
from shapcut.game.contributions import Contributions
from shapcut.game.feasible import Permits
from shapcut.game.game import Game
from shapcut.game.plan import RemovalPlan
from shapcut.support.errors import InputError


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


def known_value(
    chosen: Sequence[int], contributions: Contributions, game: Game | None, budget: int
) -> float | None:
    """The value without ``chosen`` as the estimator measured it, or measured now if the budget allows it.

    None if it is neither known nor to be had, or is not finite.
    """
    row = without(contributions.coalitions.shape[1], [chosen])
    measured = contributions.measured[(contributions.coalitions == row).all(axis=1)]
    if not len(measured) and game is not None and budget > 0:
        measured = game.values(row)
    return float(measured[0]) if len(measured) and np.isfinite(measured[0]) else None
