"""Games whose players have groups, as experts do."""

from dataclasses import replace

import numpy as np

from shapcut.game.coalitions import Player
from shapcut.game.game import FunctionGame


def grouped_players(n_groups, size, fixed=()):
    """Players of groups of equal size; those in ``fixed`` must stay."""
    return tuple(
        Player(i, f"layers.{i // size}.experts.{i % size}", "expert", 10, group=i // size)
        if i not in fixed
        else Player(i, f"fixed {i}", "expert", 10, removable=False, reason="fixed", group=i // size)
        for i in range(n_groups * size)
    )


class GroupedGame(FunctionGame):
    """Each absent player costs its damage, and some pairs of one group more; keeps the rows asked for."""

    def __init__(self, n_groups, size, seed=0, fixed=()):
        rng = np.random.default_rng(seed)
        n = n_groups * size
        self.damage = rng.exponential(size=n)
        self.pairs = rng.normal(size=n) / 4
        self.rows = []
        super().__init__(n, self._value)
        self._players = grouped_players(n_groups, size, fixed)

    def _value(self, coalitions):
        self.rows.append(coalitions.copy())
        absent = (~coalitions).astype(float)
        return -absent @ self.damage - (absent * np.roll(absent, 1, axis=1)) @ self.pairs

    @property
    def asked(self):
        """All rows asked for."""
        return np.vstack(self.rows)


def per_group(coalitions, n_groups):
    """How many of each group are absent, shape (n_coalitions, n_groups)."""
    absent = ~np.atleast_2d(coalitions)
    return absent.reshape(len(absent), n_groups, -1).sum(axis=2)


def renamed(players, group):
    """The players, all of one group."""
    return [replace(player, group=group) for player in players]
