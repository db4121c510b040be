"""A game whose measurements are kept in a store."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import floor

import numpy as np

from shapcut.game.coalitions import CoalitionMatrix, Values, keys
from shapcut.game.game import Game, Measurements, Parts, PiecewiseGame, WrappedGame, as_measurements
from shapcut.game.store import EvaluationStore, Fingerprint

Observer = Callable[[CoalitionMatrix, Values, int], None]
"""Called after each commit with the new coalitions, their values and the number of stored coalitions.

A coalition of a narrowed game counts as its fraction of the tokens."""

_SECONDS_BETWEEN_COMMITS = 10.0
_MOST_BETWEEN_COMMITS = 1024


@dataclass(slots=True)
class Reuse:
    """Work saved by a store.

    Attributes:
        evaluations: coalitions found in the store.
        seconds: the time to measure them, estimated from the game's average.
    """

    evaluations: int = 0
    seconds: float = 0.0


class StoredGame(WrappedGame):
    """A game that looks values up in a store, and measures and stores the missing ones.

    Args:
        game: the game that measures missing values.
        store: the store.
        name: the game's name in the store.
        fingerprint: identifies what the values belong to.
        observe: called after every commit.
    """

    def __init__(
        self,
        game: Game,
        store: EvaluationStore,
        *,
        name: str,
        fingerprint: Fingerprint,
        observe: Observer | None = None,
    ) -> None:
        super().__init__(game)
        store.open_game(name, fingerprint)
        self.store = store
        self.name = name
        self.fingerprint = fingerprint
        self.measured = 0
        self.reuse = Reuse()
        self._chunk = 1
        self._observers = [] if observe is None else [observe]
        self._narrowed: dict[int, StoredGame] = {}

    def narrowed(self, tokens: int) -> Game:
        """The narrower game, in the same store under its own name."""
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

    @contextmanager
    def observed_by(self, observe: Observer) -> Iterator[None]:
        """Also call ``observe`` after each commit inside the ``with`` block."""
        self._observers.append(observe)
        try:
            yield
        finally:
            self._observers.remove(observe)

    def measurements(self, coalitions: CoalitionMatrix) -> Measurements:
        """Stored measurements where known; the rest is measured and stored part by part."""
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
        """Coalitions measured since the start; narrowed games count as fractions."""
        return self.measured + sum(
            narrow.measured_in_all() * narrow.tokens / self.tokens for narrow in self._narrowed.values()
        )

    def stored_in_all(self) -> float:
        """Coalitions in the store; narrowed games count as fractions."""
        return self.store.count(self.name) + sum(
            narrow.stored_in_all() * narrow.tokens / self.tokens for narrow in self._narrowed.values()
        )

    def _tell(self, coalitions: CoalitionMatrix, values: Values) -> None:
        if self._observers:
            total = floor(self.stored_in_all())
            for observe in self._observers:
                observe(coalitions, values, total)

    def _parts(self, coalitions: CoalitionMatrix) -> Parts:
        """The game's own parts, or chunks sized to commit every few seconds."""
        if isinstance(self.game, PiecewiseGame):
            yield from self.game.parts(coalitions)
            return
        start = 0
        while start < len(coalitions):
            rows = np.arange(start, min(start + self._chunk, len(coalitions)))
            yield rows, self._timed(coalitions[rows])
            start += len(rows)

    def _timed(self, chunk: CoalitionMatrix) -> Measurements:
        """Measurements of a chunk; its duration sets the size of the next one."""
        begin = time.monotonic()
        found = self.game.measurements(chunk)
        seconds = max(time.monotonic() - begin, 1e-6)
        fitting = round(len(chunk) * _SECONDS_BETWEEN_COMMITS / seconds)
        self._chunk = min(max(1, fitting), 4 * self._chunk, _MOST_BETWEEN_COMMITS)
        return found
