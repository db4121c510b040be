"""A game whose measurements are kept in a store."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from math import floor

import numpy as np

from shapcut.game.coalitions import CoalitionMatrix, Values, keys
from shapcut.game.game import Game, Measurements, Parts, PiecewiseGame, WrappedGame, as_measurements
from shapcut.game.store import EvaluationStore, Fingerprint

_SECONDS_BETWEEN_COMMITS = 10.0


_MOST_BETWEEN_COMMITS = 1024


@dataclass(slots=True)
class Reuse:
    """What a store spared whoever asked.

    Attributes:
        evaluations: coalitions that were found in it.
        seconds: what measuring them would have taken, at their game's average.
    """

    evaluations: int = 0
    seconds: float = 0.0


class StoredGame(WrappedGame):
    """A game whose every value is looked up in a store first and written to it after.

    Args:
        game: the game to ask for values that the store lacks.
        store: where values are kept.
        name: the game's name in the store.
        fingerprint: what the values belong to.
        observe: called after each commit with the new coalitions, their values and how many are stored, where
            one of a narrowed game is the fraction that its tokens are.
    """

    def __init__(
        self,
        game: Game,
        store: EvaluationStore,
        *,
        name: str,
        fingerprint: Fingerprint,
        observe: Callable[[CoalitionMatrix, Values, int], None] | None = None,
    ) -> None:
        super().__init__(game)
        store.open_game(name, fingerprint)
        self.store = store
        self.name = name
        self.fingerprint = fingerprint
        self.measured = 0
        self.reuse = Reuse()
        self._chunk = 1
        self._observe = observe
        self._narrowed: dict[int, StoredGame] = {}

    def narrowed(self, tokens: int) -> Game:
        """The narrower game, kept in the same store under a name of its own."""
        narrower = self.game.narrowed(tokens)
        if narrower is self.game:
            return self
        if narrower.tokens not in self._narrowed:
            stored = StoredGame(
                narrower,
                self.store,
                name=f"{self.name}, first {narrower.tokens} tokens",
                fingerprint={**self.fingerprint, "first_tokens": str(narrower.tokens)},
                observe=lambda chunk, values, _: self._tell(chunk, values),
            )
            stored.reuse = self.reuse
            self._narrowed[narrower.tokens] = stored
        return self._narrowed[narrower.tokens]

    def values(self, coalitions: CoalitionMatrix) -> Values:
        """Stored values where there are any; the rest is measured and stored part by part."""
        return self.measurements(coalitions)[:, 0]

    def measurements(self, coalitions: CoalitionMatrix) -> Measurements:
        """As `values`, with the halves."""
        known = self.store.lookup(self.name, coalitions)
        self.reuse.evaluations += len(known)
        self.reuse.seconds += len(known) * self.store.seconds_per_evaluation(self.name)
        names = keys(coalitions)
        missing = {name: row for row, name in enumerate(names) if name not in known}
        rows = sorted(missing.values(), key=lambda row: coalitions[row].tobytes())
        wanted = coalitions[rows]
        begin = time.monotonic()
        for part, values_or_more in self._parts(wanted):
            chunk, found = wanted[part], as_measurements(values_or_more)
            self.store.add(self.name, chunk, found, time.monotonic() - begin)
            self.measured += len(chunk)
            known.update(zip(keys(chunk), found.tolist(), strict=True))
            self._tell(chunk, found[:, 0])
            begin = time.monotonic()
        return np.array([known[name] for name in names], dtype=np.float64).reshape(-1, 3)

    def measured_in_all(self) -> float:
        """Coalitions measured since the start; one of a narrowed game is the fraction that its tokens are."""
        return self.measured + sum(
            narrow.measured_in_all() * narrow.tokens / self.tokens for narrow in self._narrowed.values()
        )

    def stored_in_all(self) -> float:
        """As `measured_in_all`, of those that the store has."""
        return self.store.count(self.name) + sum(
            narrow.stored_in_all() * narrow.tokens / self.tokens for narrow in self._narrowed.values()
        )

    def _tell(self, coalitions: CoalitionMatrix, values: Values) -> None:
        if self._observe is not None:
            self._observe(coalitions, values, floor(self.stored_in_all()))

    def _parts(self, coalitions: CoalitionMatrix) -> Parts:
        """Parts that the game makes, or else chunks whose size follows from the clock."""
        if isinstance(self.game, PiecewiseGame):
            yield from self.game.parts(coalitions)
            return
        start = 0
        while start < len(coalitions):
            rows = np.arange(start, min(start + self._chunk, len(coalitions)))
            yield rows, self._timed(coalitions[rows])
            start += len(rows)

    def _timed(self, chunk: CoalitionMatrix) -> Measurements:
        """Measurements of a chunk; the next one's size follows from the time that this one took."""
        begin = time.monotonic()
        found = self.game.measurements(chunk)
        seconds = max(time.monotonic() - begin, 1e-6)
        fitting = round(len(chunk) * _SECONDS_BETWEEN_COMMITS / seconds)
        self._chunk = min(max(1, fitting), 4 * self._chunk, _MOST_BETWEEN_COMMITS)
        return found
