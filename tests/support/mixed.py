"""Games whose players are parts of layers and the experts in them."""

from itertools import combinations

import numpy as np

from shapcut.game.coalitions import Player
from shapcut.game.game import FunctionGame
from shapcut.game.groups import equal_by_group
from shapcut.game.mixed import mixed_layers


def mixed_players(n_layers, n_experts):
    """An attention of 40 parameters, an MLP of 10 and experts of 20 in each layer."""
    found = []
    for layer in range(n_layers):
        path, first = f"layers.{layer}", len(found)
        found.append(Player(first, f"{path}.attn", "attention", 40))
        found.append(Player(first + 1, f"{path}.mlp", "mlp", 10))
        found += [
            Player(first + 2 + i, f"{path}.mlp.experts.{i}", "expert", 20, group=layer)
            for i in range(n_experts)
        ]
    return tuple(found)


class MixedGame(FunctionGame):
    """Each absent player costs its damage; a layer that is gone costs a share of that of its players."""

    def __init__(self, n_layers=4, n_experts=4, seed=0, whole=0.7):
        rng = np.random.default_rng(seed)
        self._players = mixed_players(n_layers, n_experts)
        self.layers = mixed_layers(self._players)
        self.damage = rng.exponential(size=len(self._players)) / 4
        self.share = rng.uniform(whole, 1.0, size=n_layers)
        self.rows = []
        super().__init__(len(self._players), self._value)
        self._players = mixed_players(n_layers, n_experts)

    def _value(self, coalitions):
        self.rows.append(coalitions.copy())
        costs = (~coalitions) * self.damage
        found = np.zeros(len(coalitions))
        for layer, share in zip(self.layers, self.share, strict=True):
            members = list(layer.players)
            gone = ~coalitions[:, members].any(axis=1)
            found -= np.where(gone, share, 1.0) * costs[:, members].sum(axis=1)
        return found

    def permits(self, absent):
        """No attention alone, and at least one expert of each layer with a MoE part."""
        gone = set(absent)
        for layer in self.layers:
            if layer.parts[0] in gone and layer.owner not in gone:
                return False
            if layer.owner not in gone and gone.issuperset(layer.experts):
                return False
        return len(gone) < self.n_players and equal_by_group(self.players, absent)

    @property
    def asked(self):
        """All rows asked for."""
        return np.vstack(self.rows)

    def all_cuts(self):
        """Every cut of blocks, MoE parts and equally many experts, for small games."""
        numbers = range(len(self.layers))
        for kinds in np.ndindex(*(3,) * len(self.layers)):
            gone = [player for n in numbers if kinds[n] == 1 for player in self.layers[n].players]
            gone += [player for n in numbers if kinds[n] == 2 for player in self.layers[n].mixture]
            left = [self.layers[n].experts for n in numbers if kinds[n] == 0]
            for each in range(len(self.layers[0].experts) if left else 1):
                sets = [[()]] if not left else [list(combinations(some, each)) for some in left]
                for chosen in np.ndindex(*(len(some) for some in sets)):
                    experts = [e for some, at in zip(sets, chosen, strict=True) for e in some[at]]
                    cut = tuple(sorted([*gone, *experts]))
                    if cut and self.permits(cut):
                        yield cut
