"""Distribute coalitions over workers that may die."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from shapcut.contracts import CoalitionMatrix, ShapcutError, WindowMeans, WindowPart

MOST_DEATHS = 3
"""Consecutive deaths, of one worker or of workers on the same piece, that end a request."""

_PIECES_A_WORKER = 2
_FEWEST_ROWS = 32
"""Fewer coalitions share too little: windows are divided among workers instead."""

_MOST_SPANS = 8
"""Parts of the text in which a piece is measured, so that each can be kept."""


class WorkerDiedError(Exception):
    """A worker died and its task is lost; the message says why."""


class Workers(Protocol):
    """Starts and calls workers; worker and task handles are opaque."""

    @property
    def count(self) -> int:
        """Number of workers."""

    def start(self) -> Any:
        """A new worker."""

    def stop(self, worker: Any) -> None:
        """End a worker, dead or alive."""

    def prepare(self, worker: Any) -> Any:
        """Start a task that prepares a worker."""

    def measure(self, worker: Any, game: int, coalitions: CoalitionMatrix, first: int, last: int) -> Any:
        """Start a task that measures coalitions on some windows of one of the games."""

    def wait(self, tasks: Sequence[Any]) -> Any:
        """Wait for the first finished task."""

    def result(self, task: Any) -> WindowMeans | None:
        """The result of a finished task.

        Raises:
            WorkerDiedError: if its worker died.
            ShapcutError: if it failed.
        """


@dataclass(slots=True)
class Piece:
    """Rows of a request on a few windows for one worker, and the number of workers that died on them."""

    rows: NDArray[np.intp]
    first: int
    last: int
    deaths: int = 0


def pieces(coalitions: CoalitionMatrix, first: int, last: int, *, step: int, workers: int) -> list[Piece]:
    """Divide a request into pieces that each hold whole subtrees of the prefix tree.

    Args:
        coalitions: the request.
        first: its first window.
        last: the window after its last.
        step: windows may be parted at multiples of this number, counted from ``first``.
        workers: number of workers.
    """
    order = np.lexsort(coalitions.T[::-1])
    wanted = min(_PIECES_A_WORKER * workers, max(1, len(order) // _FEWEST_ROWS))
    parts = np.split(order, cuts(coalitions[order], wanted))
    steps = -(-(last - first) // step)
    count = min(steps, max(_MOST_SPANS, -(-workers // len(parts))))
    edges = [first + step * (steps * part // count) for part in range(count)] + [last]
    return [Piece(rows, begin, end) for begin, end in pairwise(edges) for rows in parts if len(rows)]


def cuts(ordered: CoalitionMatrix, wanted: int) -> list[int]:
    """Where to cut sorted rows into ``wanted`` parts of similar size: where neighbours share least."""
    same = ordered[1:] == ordered[:-1]
    shared = np.where(same.all(axis=1), same.shape[1], same.argmin(axis=1)) if len(same) else np.array([])
    found, reach = [], max(1, len(ordered) // (4 * wanted))
    for part in range(1, wanted):
        middle = len(ordered) * part // wanted
        near = np.arange(max(1, middle - reach), min(len(ordered), middle + reach + 1))
        found.append(int(near[np.argmin(shared[near - 1])]))
    return found


@dataclass(slots=True)
class _Place:
    """One worker and its current task."""

    worker: Any
    task: Any
    piece: Piece | None = None
    deaths: int = 0


class WorkerPool:
    """Measures coalitions with workers that start at the first request and are replaced when they die."""

    def __init__(self, workers: Workers) -> None:
        self._workers = workers
        self._places: list[_Place] = []

    def measure(
        self, game: int, step: int, coalitions: CoalitionMatrix, first: int, last: int
    ) -> Iterator[WindowPart]:
        """Yield the means of all rows on the windows from ``first`` to before ``last``, piece by piece.

        Args:
            game: number of the game.
            step: windows may be parted at multiples of this number.
            coalitions: the rows.
            first: the first window.
            last: the window after the last.

        Raises:
            ShapcutError: if a worker fails, or workers die repeatedly.
        """
        self._places = self._places or [self._new_place() for _ in range(self._workers.count)]
        pending = pieces(coalitions, first, last, step=step, workers=len(self._places))[::-1]
        unfinished = len(pending)
        try:
            while unfinished:
                self._hand_out(pending, game, coalitions)
                place = self._next_done()
                try:
                    means = self._workers.result(place.task)
                except WorkerDiedError as error:
                    self._replace(place, pending, error)
                    continue
                piece, place.task, place.piece = place.piece, None, None
                if piece is not None and means is not None:
                    place.deaths = 0
                    unfinished -= 1
                    yield WindowPart(piece.rows, piece.first, means)
        finally:
            if unfinished:
                self.close()

    def close(self) -> None:
        """End all workers; the next request starts new ones."""
        for place in self._places:
            self._workers.stop(place.worker)
        self._places = []

    def _new_place(self, deaths: int = 0) -> _Place:
        worker = self._workers.start()
        return _Place(worker, self._workers.prepare(worker), deaths=deaths)

    def _hand_out(self, pending: list[Piece], game: int, coalitions: CoalitionMatrix) -> None:
        """Give every idle worker a piece."""
        for place in self._places:
            if place.task is None and pending:
                place.piece = piece = pending.pop()
                place.task = self._workers.measure(
                    place.worker, game, coalitions[piece.rows], piece.first, piece.last
                )

    def _next_done(self) -> _Place:
        busy = [place for place in self._places if place.task is not None]
        done = self._workers.wait([place.task for place in busy])
        return next(place for place in busy if place.task is done)

    def _replace(self, place: _Place, pending: list[Piece], error: WorkerDiedError) -> None:
        """Replace a dead worker and return its piece.

        Raises:
            ShapcutError: if that has happened `MOST_DEATHS` times in a row.
        """
        piece, deaths = place.piece, place.deaths + 1
        if piece is not None:
            piece.deaths += 1
            pending.append(piece)
        if max(deaths, 0 if piece is None else piece.deaths) >= MOST_DEATHS:
            raise ShapcutError(
                f"workers died {MOST_DEATHS} times in a row ({error}); if memory is short for "
                f"{len(self._places)} copies of the model, ask for fewer workers"
            ) from error
        self._workers.stop(place.worker)
        self._places[self._places.index(place)] = self._new_place(deaths)
