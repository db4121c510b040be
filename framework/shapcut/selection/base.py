"""Selectors: from contributions to the set of players to remove."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from shapcut.estimators.sampling import removable
from shapcut.game.coalitions import Player, finite_or_none, require_numbered, without
from shapcut.game.contributions import Contributions
from shapcut.game.game import Game, may_be_absent
from shapcut.game.groups import Groups, layer_sizes, require_equal
from shapcut.game.plan import RemovalPlan
from shapcut.game.target import Target
from shapcut.support.errors import InputError


@dataclass(frozen=True, slots=True)
class SelectionProblem:
    """The input of a selector.

    Attributes:
        contributions: the estimator's result.
        players: the game's players.
        n_remove: number of players to remove.
        rng: source of all randomness.
        game: the game to measure candidates in; None if the choice must rest on the contributions.
        budget: number of further distinct coalitions that may be measured.
        finals: the same game on further texts of equal length, to compare the best sets on.
        starts: sets to measure first and to search from; those of another size are left out.

    Raises:
        InputError: if ``n_remove`` players cannot be removed, or the contributions are another game's.
    """

    contributions: Contributions
    players: Sequence[Player]
    n_remove: int
    rng: np.random.Generator = field(kw_only=True)
    game: Game | None = field(default=None, kw_only=True)
    budget: int = field(default=0, kw_only=True)
    finals: Sequence[Game] = field(default=(), kw_only=True)
    starts: Sequence[Sequence[int]] = field(default=(), kw_only=True)

    def __post_init__(self) -> None:
        require_numbered(self.players)
        scored = len(self.contributions.values)
        if scored != len(self.players):
            raise InputError(
                f"the contributions are those of {scored} players, the game has {len(self.players)}"
            )
        require_removable(self.players, self.n_remove)

    @property
    def n_players(self) -> int:
        """Number of players."""
        return len(self.players)

    @property
    def candidates(self) -> NDArray[np.int64]:
        """Indices of the removable players, ascending, shape (n_candidates,)."""
        return removable(self.players)

    @property
    def groups(self) -> Groups:
        """The groups of players that must lose equally many."""
        return Groups.of(self.players)

    def permits(self, absent: Sequence[int]) -> bool:
        """Whether the set may be removed: the game's answer, or whether each player is removable."""
        if self.game is not None:
            return self.game.permits(absent)
        return may_be_absent(self.players, absent)

    def require_game(self, selector: str) -> Game:
        """The game.

        Raises:
            InputError: if there is none; the message names the selector.
        """
        if self.game is None:
            raise InputError(f"selector {selector!r} needs a game to measure sets in; pass one")
        return self.game

    def known_value(self, absent: Sequence[int]) -> float | None:
        """The value without ``absent``: the estimator's measurement, or a new one if the budget allows it.

        None if it is unavailable or not finite.
        """
        measured = self.contributions.lookup(absent)
        if not len(measured) and self.game is not None and self.budget > 0:
            measured = self.game.values(without(self.n_players, [absent]))
        return finite_or_none(measured[0]) if len(measured) else None

    def plan(self, removed: Sequence[int], **fields: object) -> RemovalPlan:
        """A plan that removes these players; further attributes of `RemovalPlan` by keyword."""
        known = {"full_value": self.contributions.full_value, "layers": layer_sizes(self.players)}
        return RemovalPlan.removing(removed, self.n_players, **known, **fields)


class Selector(ABC):
    """Chooses what to remove; its options are its constructor's keyword arguments.

    Attributes:
        name: under which it is registered.
        handles_groups: whether it works for players whose groups must lose equally many, such as experts.
        handles_parts: whether it works for parts of layers and the experts in them as players of one game.
        takes_starts: whether it searches from the problem's ``starts``.
    """

    name: str
    handles_groups: ClassVar[bool] = False
    handles_parts: ClassVar[bool] = False
    takes_starts: ClassVar[bool] = False

    @abstractmethod
    def select(self, problem: SelectionProblem) -> RemovalPlan:
        """Choose the players to remove.

        Raises:
            InputError: if no permitted set of that size exists.
        """


class TargetSelector(Selector):
    """A selector that needs the target itself, because the number of players says little."""

    def select(self, problem: SelectionProblem) -> RemovalPlan:  # noqa: ARG002 - a number is no target here
        """Refuses: a number of players is no target.

        Raises:
            InputError: always.
        """
        raise InputError(f"selector {self.name!r} takes a target in parameters, not a number of players")

    @abstractmethod
    def select_target(
        self,
        contributions: Contributions,
        target: Target,
        *,
        game: Game,
        budget: int,
        finals: Sequence[Game],
        rng: np.random.Generator,
    ) -> RemovalPlan:
        """Choose the players to remove.

        Args:
            contributions: the estimator's result.
            target: the target.
            game: the game to measure candidates in.
            budget: number of further distinct coalitions that may be measured.
            finals: the same game on further texts of equal length.
            rng: source of all randomness.

        Raises:
            InputError: if no permitted set reaches the target.
        """


def require_removable(players: Sequence[Player], n_remove: int) -> None:
    """Check that ``n_remove`` players can be removed, equally many of each group, while one of each stays.

    Raises:
        InputError: otherwise.
    """
    groups = Groups.of(players)
    fewest, most = len(groups), groups.most * len(groups)
    if not fewest <= n_remove <= most:
        raise InputError(f"cannot remove {n_remove} of {len(players)} players: choose {fewest} to {most}")
    require_equal(n_remove, fewest, most, f"cannot remove {n_remove} of {len(players)} players")
