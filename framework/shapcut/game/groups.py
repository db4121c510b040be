"""Groups of players that must lose equally many: the experts of each layer."""

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shapcut.game.coalitions import CoalitionMatrix, Player
from shapcut.game.mixed import is_mixed_cut, mixed_layers
from shapcut.support.errors import InputError

_PARTS = ("attention", "mixer", "mlp")
_FREE = -1


@dataclass(frozen=True, eq=False, slots=True)
class Groups:
    """The removable players by group; without groups there is a single one.

    Parts of layers beside experts are free: they are in no group.

    Attributes:
        members: indices of the removable players of each group, ascending.
        labels: the place of each player's group among ``members``, -1 for a free one, shape (n_players,).
        sizes: the number of players of each group, removable or not.
        n_layers: the number of layers that groups are in; a layer may have several.
    """

    members: tuple[NDArray[np.int64], ...]
    labels: NDArray[np.int64]
    sizes: tuple[int, ...]
    n_layers: int

    @classmethod
    def of(cls, players: Sequence[Player]) -> "Groups":
        """The groups of a game's players.

        Raises:
            InputError: if some players have a group, and one without is no part of a layer.
        """
        named = [player.group for player in players]
        grouped = [group for group in dict.fromkeys(named) if group is not None]
        if grouped and None in named:
            _require_parts(players)
        places = {group: place for place, group in enumerate(grouped or [None])}
        labels = np.array([places.get(group, _FREE) for group in named], dtype=np.int64)
        can_go = np.array([player.removable for player in players], dtype=np.bool_)
        members = tuple(np.flatnonzero(can_go & (labels == place)) for place in range(len(places)))
        return cls(
            members, labels, tuple(np.bincount(labels[labels != _FREE]).tolist()), len(layer_sizes(players))
        )

    def __len__(self) -> int:
        """The number of groups."""
        return len(self.members)

    @property
    def most(self) -> int:
        """The largest number that each group can lose while the whole keeps a player in each."""
        return min(min(len(some), size - 1) for some, size in zip(self.members, self.sizes, strict=True))

    def equal(self, absent: Iterable[int]) -> bool:
        """Whether each group lacks equally many of these players."""
        counts = Counter(self.labels[list(absent)].tolist())
        return len({counts[place] for place in range(len(self))}) == 1

    def draw(self, number: int, rng: np.random.Generator) -> list[int]:
        """Players to remove, equally many of each group, uniformly."""
        each = number // len(self)
        drawn = [rng.choice(some, size=each, replace=False) for some in self.members]
        return [int(player) for player in np.concatenate(drawn)]

    def first(self, ranking: Iterable[int], number: int) -> list[int]:
        """The first removable players of a ranking, equally many of each group, in its order."""
        left = dict.fromkeys(range(len(self)), number // len(self))
        can_go = set(np.concatenate(self.members).tolist())
        chosen = []
        for player in ranking:
            place = int(self.labels[player])
            if player in can_go and left.get(place):
                left[place] -= 1
                chosen.append(player)
        return chosen

    def layers_run(self, coalitions: CoalitionMatrix) -> NDArray[np.int64]:
        """The layers that each coalition runs: its players, or all layers that groups are in.

        Of parts and experts, the parts.
        """
        free = self.labels == _FREE
        if free.any() or len(self) == 1:
            count: NDArray[np.int64] = coalitions[:, free if free.any() else slice(None)].sum(axis=1)
            return count
        return np.full(len(coalitions), self.n_layers, dtype=np.int64)


def _require_parts(players: Sequence[Player]) -> None:
    for player in players:
        if player.group is None and player.kind not in _PARTS:
            raise InputError(
                f"player {player.index} has no group, but others have one; give all one, or none"
            )


def layer_sizes(players: Sequence[Player]) -> dict[str, int]:
    """The players of each layer that has several, by the name that they share; empty without groups.

    The parts of a layer and the experts in one of them count apart.
    """
    if all(player.group is None for player in players):
        return {}
    return dict(Counter(player.name.rpartition(".")[0] for player in players))


def equal_by_group(players: Sequence[Player], absent: Collection[int]) -> bool:
    """Whether each group of these players lacks equally many; players without groups may lack any.

    Groups of experts that go with a part of their layer do not count.
    """
    if all(player.group is None for player in players):
        return True
    if any(player.group is None for player in players):
        return is_mixed_cut(players, absent)
    return Groups.of(players).equal(absent)


def require_equal(number: int, n_groups: int, most: int, what: str) -> None:
    """Refuse a number of players that groups cannot lose in equal parts.

    Args:
        number: of players to remove.
        n_groups: number of groups.
        most: the largest possible number.
        what: begins the message.

    Raises:
        InputError: naming the nearest possible numbers.
    """
    if number % n_groups == 0:
        return
    below = number // n_groups * n_groups
    near = " or ".join(str(each) for each in (below, below + n_groups) if 0 < each <= most)
    raise InputError(f"{what}: each of {n_groups} groups of players must lose equally many; give {near}")


def layer_parameters(players: Sequence[Player]) -> list[int]:
    """The parameters of each layer: of each player, or of all players of a layer together."""
    if all(player.group is None for player in players):
        return [player.parameters for player in players]
    if layers := mixed_layers(players):
        return [sum(players[player].parameters for player in layer.players) for layer in layers]
    found: dict[str, int] = {}
    for player in players:
        layer = player.name.rpartition(".")[0]
        found[layer] = found.get(layer, 0) + player.parameters
    return list(found.values())
