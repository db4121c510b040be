"""How much is to be removed: a number of players, or a sum of what they cost."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil

import numpy as np
from numpy.typing import NDArray

from shapcut.game.coalitions import Player
from shapcut.game.feasible import Permits, permitted_sets
from shapcut.game.game import Game, WrappedGame
from shapcut.support.errors import InputError

_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True)
class Target:
    """Sets of players reach it whose costs add up to what is needed.

    Attributes:
        costs: what is gained by removing each player; 0 for those that are not removable.
        needed: the sum to be reached, in the same unit.
        label: short and fit for a file name, such as ``ratio-0.2``.
        text: the target in words.
        number: how many players to remove, if only that counts.
    """

    costs: tuple[float, ...]
    needed: float
    label: str
    text: str
    number: int | None = None

    @classmethod
    def count(cls, players: Sequence[Player], number: int, label: str = "") -> "Target":
        """So many players, whichever."""
        costs = tuple(1.0 if player.removable else 0.0 for player in players)
        return cls(costs, float(number), label or f"remove-{number}", f"{number} players", number)

    @property
    def candidates(self) -> list[int]:
        """Players whose removal gains anything."""
        return [player for player, cost in enumerate(self.costs) if cost > 0.0]

    @property
    def is_count(self) -> bool:
        """Whether all candidates cost the same, so that only their number matters."""
        return len({self.costs[player] for player in self.candidates}) <= 1

    def gain(self, absent: Sequence[int]) -> float:
        """What removing these players gains."""
        return float(sum(self.costs[player] for player in absent))

    def reached(self, absent: Sequence[int]) -> bool:
        """Whether removing these players is enough."""
        return self.gain(absent) >= self.needed * (1.0 - _ROUNDING)

    def complete(self, ranking: Sequence[int]) -> tuple[int, ...]:
        """The first players of a ranking that reach the target, without those that then are not needed.

        Args:
            ranking: players, the first to be removed first.

        Returns:
            The players to remove, ascending; all candidates of the ranking if they are not enough.
        """
        chosen: list[int] = []
        for player in ranking:
            if self.reached(chosen):
                break
            if self.costs[player] > 0.0:
                chosen.append(player)
        return self.trimmed(chosen)

    def trimmed(self, ranked: Sequence[int]) -> tuple[int, ...]:
        """The set without players that it does not need, the last of the ranking being tried first."""
        kept = list(ranked)
        for player in reversed(ranked):
            others = [other for other in kept if other != player]
            if others and self.reached(others):
                kept = others
        return tuple(sorted(kept))

    def sizes(self) -> range:
        """How many players a set can have that reaches the target and of which none is superfluous.

        Raises:
            InputError: if no set reaches it while at least one player stays.
        """
        costs = np.sort([self.costs[player] for player in self.candidates])
        most = min(len(costs), len(self.costs) - 1)
        best = float(costs[len(costs) - most :].sum())
        if most < 1 or best < self.needed * (1.0 - _ROUNDING):
            raise InputError(f"{self.text}: {self.shortfall(best)}")
        fewest = _first_reaching(np.cumsum(costs[::-1]), self.needed)
        return range(fewest, min(_first_reaching(np.cumsum(costs), self.needed), most) + 1)

    def shortfall(self, best: float) -> str:
        """Why a target cannot be reached, in words."""
        share = best / self.needed if self.needed > 0 else 0.0
        return f"all that can be removed gains {best:.6g} of the {self.needed:.6g} needed ({share:.1%})"

    def typical_size(self) -> int:
        """How many players of average cost it takes."""
        sizes = self.sizes()
        mean = float(np.mean([self.costs[player] for player in self.candidates]))
        return min(max(ceil(self.needed / mean * (1.0 - _ROUNDING)), sizes[0]), sizes[-1])

    def sizes_around(self, order: Sequence[int]) -> list[int]:
        """Sizes worth searching, the likeliest first: that of a ranking's completion and its neighbours."""
        sizes = self.sizes()
        likely = min(max(len(self.complete(order)), sizes[0]), sizes[-1])
        return [size for size in (likely, likely - 1, likely + 1) if size in sizes]

    def within(self, allowed: Sequence[int]) -> "Target":
        """The same where only some players may go."""
        kept = set(allowed)
        return replace(self, costs=tuple(c if i in kept else 0.0 for i, c in enumerate(self.costs)))

    def require_permitted(self, permits: Permits, rng: np.random.Generator) -> None:
        """Check that a set that reaches the target may be removed.

        Raises:
            InputError: if none was found.
        """
        for size in self.sizes():
            if permitted_sets(self.candidates, size, lambda s: self.reached(s) and permits(s), 1, rng):
                return
        raise InputError(
            f"{self.text}: no set of players was found that reaches it and may be removed together"
        )


class RestrictedGame(WrappedGame):
    """A game of which fewer sets may be removed: those that reach a target, or lie within a larger cut.

    Args:
        game: the game, which measures.
        target: what a set must reach; players that it gains nothing from must stay.
    """

    def __init__(self, game: Game, target: Target) -> None:
        super().__init__(game)
        self.target = target
        self._players = restricted(game.players, target)

    @property
    def players(self) -> tuple[Player, ...]:
        """The game's players; those that must stay are not removable."""
        return self._players

    def permits(self, absent: Sequence[int]) -> bool:
        """Whether the set reaches the target, lies within it and may be removed."""
        inside = all(self.target.costs[player] > 0.0 for player in absent)
        return inside and self.target.reached(absent) and self.game.permits(absent)

    def values(self, coalitions: NDArray[np.bool_]) -> NDArray[np.float64]:
        """The game's values."""
        return self.game.values(coalitions)


def restricted(players: Sequence[Player], target: Target) -> tuple[Player, ...]:
    """The players, of which only a target's candidates are removable."""
    return tuple(
        player if not player.removable or target.costs[player.index] > 0.0 else _staying(player)
        for player in players
    )


def _staying(player: Player) -> Player:
    return replace(player, removable=False, reason="its removal gains nothing towards the target")


def _first_reaching(sums: NDArray[np.float64], needed: float) -> int:
    return int(np.searchsorted(sums, needed * (1.0 - _ROUNDING))) + 1
