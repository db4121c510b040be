"""The target of pruning: a number of players to remove, or a sum of their costs."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil

import numpy as np
from numpy.typing import NDArray

from shapcut.game.coalitions import Player
from shapcut.game.feasible import Permits, permitted_sets
from shapcut.game.game import Game, WrappedGame
from shapcut.game.groups import Groups
from shapcut.support.errors import InputError

_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True)
class Target:
    """A target, reached by each set of players whose costs add up to at least ``needed``.

    Attributes:
        costs: the gain from removing each player; 0 if it is not removable.
        needed: the sum to reach, in the unit of the costs.
        label: a short name for files, such as ``ratio-0.2``.
        text: the target in words.
        number: the number of players to remove, for a target that is a number.
    """

    costs: tuple[float, ...]
    needed: float
    label: str
    text: str
    number: int | None = None

    @classmethod
    def count(cls, players: Sequence[Player], number: int, label: str = "") -> "Target":
        """A target of ``number`` players, each with a cost of 1."""
        costs = tuple(1.0 if player.removable else 0.0 for player in players)
        return cls(costs, float(number), label or f"remove-{number}", f"{number} players", number)

    @property
    def candidates(self) -> list[int]:
        """Players with a positive cost, ascending."""
        return [player for player, cost in enumerate(self.costs) if cost > 0.0]

    @property
    def is_count(self) -> bool:
        """Whether all candidates cost the same, so that only their number matters."""
        return len({self.costs[player] for player in self.candidates}) <= 1

    def gain(self, absent: Sequence[int]) -> float:
        """The sum of the costs of these players."""
        return float(sum(self.costs[player] for player in absent))

    def reached(self, absent: Sequence[int]) -> bool:
        """Whether removing these players is enough."""
        return self.gain(absent) >= self.needed * (1.0 - _ROUNDING)

    def complete(self, ranking: Sequence[int]) -> tuple[int, ...]:
        """The first players of a ranking that reach the target, without superfluous ones.

        Args:
            ranking: players in the order of removal.

        Returns:
            The players to remove, ascending; all candidates of the ranking if they do not reach the target.
        """
        chosen: list[int] = []
        for player in ranking:
            if self.reached(chosen):
                break
            if self.costs[player] > 0.0:
                chosen.append(player)
        return self.trimmed(chosen)

    def trimmed(self, ranked: Sequence[int]) -> tuple[int, ...]:
        """The set without superfluous players, ascending; drops the last of the ranking first."""
        kept = list(ranked)
        for player in reversed(ranked):
            others = [other for other in kept if other != player]
            if others and self.reached(others):
                kept = others
        return tuple(sorted(kept))

    def sizes(self) -> range:
        """The possible sizes of a set that reaches the target without superfluous players.

        Raises:
            InputError: if no set reaches the target and leaves at least one player.
        """
        costs = np.sort([self.costs[player] for player in self.candidates])
        most = min(len(costs), len(self.costs) - 1)
        best = float(costs[len(costs) - most :].sum())
        if most < 1 or best < self.needed * (1.0 - _ROUNDING):
            raise InputError(f"{self.text}: {self.shortfall(best)}")
        fewest = _first_reaching(np.cumsum(costs[::-1]), self.needed)
        return range(fewest, min(_first_reaching(np.cumsum(costs), self.needed), most) + 1)

    def shortfall(self, best: float) -> str:
        """The part of an error message that says how far the best set falls short."""
        share = best / self.needed if self.needed > 0 else 0.0
        return f"the largest possible removal gains {best:.6g} of the {self.needed:.6g} needed ({share:.1%})"

    def typical_size(self) -> int:
        """The number of players of mean cost that reach the target."""
        sizes = self.sizes()
        mean = float(np.mean([self.costs[player] for player in self.candidates]))
        return min(max(ceil(self.needed / mean * (1.0 - _ROUNDING)), sizes[0]), sizes[-1])

    def sizes_around(self, order: Sequence[int]) -> list[int]:
        """Sizes to search, likeliest first: the size of the ranking's completion, then its neighbours."""
        sizes = self.sizes()
        likely = min(max(len(self.complete(order)), sizes[0]), sizes[-1])
        return [size for size in (likely, likely - 1, likely + 1) if size in sizes]

    def by_group(self, groups: Groups) -> "Target":
        """The smallest number of players, equally many of each group, that reaches the target.

        Each group is taken to lose its cheapest players, so that any choice of that number is enough.

        Raises:
            InputError: if the target is out of reach.
        """
        if len(groups) == 1 or self.number is not None:
            return self
        costs = np.zeros(groups.most + 1)
        for some in groups.members:
            costs[1:] += np.sort([self.costs[player] for player in some])[: groups.most]
        each = int(np.searchsorted(np.cumsum(costs), self.needed * (1.0 - _ROUNDING)))
        if each > groups.most:
            raise InputError(f"{self.text}: {self.shortfall(float(costs.sum()))}")
        number = max(each, 1) * len(groups)
        same = tuple(1.0 if cost > 0.0 else 0.0 for cost in self.costs)
        return replace(self, costs=same, needed=float(number), number=number)

    def within(self, allowed: Sequence[int]) -> "Target":
        """The same target with only these players as candidates."""
        kept = set(allowed)
        return replace(self, costs=tuple(c if i in kept else 0.0 for i, c in enumerate(self.costs)))

    def require_permitted(self, permits: Permits, rng: np.random.Generator) -> None:
        """Check that some permitted set reaches the target.

        Raises:
            InputError: if none is found.
        """
        for size in self.sizes():
            if permitted_sets(self.candidates, size, lambda s: self.reached(s) and permits(s), 1, rng):
                return
        raise InputError(
            f"{self.text}: found no set of players that reaches it and can be removed from this model"
        )


class RestrictedGame(WrappedGame):
    """A game that permits only the sets of a target's candidates that reach the target.

    Args:
        game: the game to measure in.
        target: the target; players that are not its candidates must stay.
    """

    def __init__(self, game: Game, target: Target) -> None:
        super().__init__(game)
        self.target = target
        self._players = restricted(game.players, target)

    @property
    def players(self) -> tuple[Player, ...]:
        """The game's players; only the target's candidates are removable."""
        return self._players

    def permits(self, absent: Sequence[int]) -> bool:
        """Whether the set has only candidates, reaches the target and may be removed."""
        inside = all(self.target.costs[player] > 0.0 for player in absent)
        return inside and self.target.reached(absent) and self.game.permits(absent)


def restricted(players: Sequence[Player], target: Target) -> tuple[Player, ...]:
    """The players, with only a target's candidates removable."""
    return tuple(
        player if not player.removable or target.costs[player.index] > 0.0 else _staying(player)
        for player in players
    )


def _staying(player: Player) -> Player:
    return replace(player, removable=False, reason="removing it does not help to reach the target")


def _first_reaching(sums: NDArray[np.float64], needed: float) -> int:
    return int(np.searchsorted(sums, needed * (1.0 - _ROUNDING))) + 1
