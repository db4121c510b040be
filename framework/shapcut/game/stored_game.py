"""A game whose measurements are kept in a store."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import floor

import numpy as np
from numpy.typing import NDArray

from shapcut.game.coalitions import CoalitionMatrix, Values, keys
from shapcut.game.game import (
    Game,
    Measurements,
    Parts,
    PiecewiseGame,
    WindowedGame,
    WrappedGame,
    as_measurements,
)
from shapcut.game.store import EvaluationStore, Fingerprint

Observer = Callable[[CoalitionMatrix, Values, int], None]
"""Called after each commit with the new coalitions, their values and the number of stored coalitions.

A coalition on a part of the text counts as that part, and is new without a value: no rows are passed then."""

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

    Means on a few windows are stored too, until the value on all text is known: an interrupted run repeats
    nothing but its last part, and a value on more windows adds to what is known of fewer.

    Args:
        game: the game that measures missing values.
        store: the store.
        name: the game's name in the store.
        fingerprint: identifies what the values belong to.
        observe: called after every commit.
        whole: the stored game that this one narrows.
    """

    def __init__(
        self,
        game: Game,
        store: EvaluationStore,
        *,
        name: str,
        fingerprint: Fingerprint,
        observe: Observer | None = None,
        whole: "StoredGame | None" = None,
    ) -> None:
        super().__init__(game)
        store.open_game(name, fingerprint)
        self._whole = whole or self
        self.store = store
        self.name = name
        self.fingerprint = fingerprint
        self.measured = 0
        self.reuse = Reuse()
        self._chunk = 1
        self._measured_windows = 0
        self._begun = 0.0
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
                whole=self._whole,
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
        self._lap()
        parts = self._from_windows(wanted) if self._windows else self._parts(wanted)
        for part, values_or_more in parts:
            chunk, found = wanted[part], as_measurements(values_or_more)
            self.store.add(self.name, chunk, found, self._lap())
            self.measured += len(chunk)
            known.update(zip(keys(chunk), found.tolist(), strict=True))
            self._tell(chunk, found[:, 0])
        return np.array([known[name] for name in names], dtype=np.float64).reshape(-1, 3)

    def with_narrowed(self) -> Iterator["StoredGame"]:
        """This game and the narrower ones that were made of it."""
        yield self
        for narrower in self._narrowed.values():
            yield from narrower.with_narrowed()

    def measured_in_all(self) -> float:
        """Coalitions measured since the start; on a part of the text they count as that part."""
        if self._windows:
            return self._measured_windows / self._windows
        return self.measured + sum(
            narrow.measured_in_all() * narrow.tokens / self.tokens for narrow in self._narrowed.values()
        )

    def stored_in_all(self) -> float:
        """Coalitions in the store; on a part of the text they count as that part."""
        stored = self.store.count(self.name)
        if self._windows:
            return stored + self.store.count_windows(self.name) / self._windows
        return stored + sum(
            narrow.stored_in_all() * narrow.tokens / self.tokens for narrow in self._narrowed.values()
        )

    @property
    def _windows(self) -> int:
        """The game's windows, if its values come from windows."""
        return self.game.windows if isinstance(self.game, WindowedGame) else 0

    def _from_windows(self, coalitions: CoalitionMatrix) -> Parts:
        """The measurements of rows of which all windows are known; means on a part of them are stored."""
        game, whole = self.game, self._whole
        if not isinstance(game, WindowedGame):
            raise TypeError("the game has no windows")
        means = self.store.lookup_windows(whole.name, coalitions, game.windows)
        missing = np.isnan(means)
        done = np.flatnonzero(~missing.any(axis=1))
        if len(done):
            yield done, game.combined(means[done])
        for rows, first, last in spans(missing):
            for part in game.window_parts(coalitions[rows], first, last):
                at = rows[part.rows]
                means[at, part.windows] = part.means
                missing[at, part.windows] = False
                whole._measured_windows += part.means.size  # noqa: SLF001 - of its own class
                known = at[~missing[at].any(axis=1)]
                if len(known) < len(at) or self is not whole:
                    self.store.add_windows(
                        whole.name, coalitions[at], part, of=self.name, seconds=self._lap()
                    )
                    self._tell(coalitions[:0], means[:0, 0])
                if len(known):
                    yield known, game.combined(means[known])

    def _lap(self) -> float:
        """Seconds since the last commit."""
        now = time.monotonic()
        begun, self._begun = self._begun, now
        return now - begun

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


def spans(missing: NDArray[np.bool_]) -> Iterator[tuple[NDArray[np.intp], int, int]]:
    """Rows that lack the same windows, with the first of these windows and the one after the last.

    Args:
        missing: whether a row lacks a window, shape (n_rows, n_windows).
    """
    patterns, which = np.unique(missing, axis=0, return_inverse=True)
    for number, pattern in enumerate(patterns):
        edges = np.flatnonzero(np.diff(np.concatenate([[0], pattern.astype(np.int8), [0]])))
        for first, last in edges.reshape(-1, 2).tolist():
            yield np.flatnonzero(which.reshape(-1) == number), first, last
