"""A forecast of what mixed cuts cost."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from shapcut.game.coalitions import absent_players
from shapcut.game.contributions import Contributions
from shapcut.game.kinds import Kind


class Forecast:
    """What cuts cost, by the contributions of each kind, each times a factor fitted to measured cuts.

    Args:
        kinds: the kinds with their contributions.
    """

    def __init__(self, kinds: Sequence[tuple[Kind, Contributions]]) -> None:
        self._kinds = kinds
        self._factors: NDArray[np.float64] = np.ones(len(kinds))
        self._known: dict[tuple[int, ...], NDArray[np.float64]] = {}

    def costs(self, sets: Sequence[tuple[int, ...]]) -> NDArray[np.float64]:
        """The loss of each cut by each kind, shape (n_sets, n_kinds)."""
        new = [some for some in sets if some not in self._known]
        self._known.update(zip(new, self._costs(new), strict=True))
        return np.array([self._known[some] for some in sets]).reshape(-1, len(self._kinds))

    def _costs(self, sets: Sequence[tuple[int, ...]]) -> NDArray[np.float64]:
        found = np.zeros((len(sets), len(self._kinds)))
        taken = [set(some) for some in sets]
        for column, (kind, contributions) in enumerate(self._kinds):
            rows = np.ones((len(sets), len(kind.sets)), dtype=np.bool_)
            for row, gone in enumerate(taken):
                rows[row, [one for one, some in enumerate(kind.sets) if gone.issuperset(some)]] = False
            surrogate = contributions.surrogate
            if surrogate is not None:
                everyone = surrogate.predict(np.ones((1, len(kind.sets)), dtype=np.bool_))
                found[:, column] = everyone - surrogate.predict(rows)
            for gone, coalition in zip(taken, rows, strict=True):
                gone.difference_update(kind.whole_set(absent_players(coalition)))
        return found

    def predict(self, sets: Sequence[tuple[int, ...]]) -> NDArray[np.float64]:
        """The loss of each cut, shape (n_sets,)."""
        predicted: NDArray[np.float64] = self.costs(sets) @ self._factors
        return predicted

    def fit(self, sets: Sequence[tuple[int, ...]], losses: NDArray[np.float64]) -> None:
        """Fit the factors to measured losses, by ridge regression towards 1."""
        design = self.costs(sets)
        scale = float((design**2).sum()) / max(1, design.size)
        if scale > 0.0:
            normal = design.T @ design + scale * np.eye(len(self._kinds))
            self._factors = np.ones(len(self._kinds)) + np.linalg.solve(
                normal, design.T @ (losses - design.sum(axis=1))
            )
