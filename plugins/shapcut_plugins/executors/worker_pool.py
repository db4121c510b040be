"""Distribute coalitions over workers that may die."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from shapcut.contracts import CoalitionMatrix, ShapcutError, Values

MOST_DEATHS = 3
"""Consecutive deaths, of one worker or of workers on the same piece, that end a request."""

_SECONDS_A_PIECE = 5.0
_MOST_ROWS = 256


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

    def measure(self, worker: Any, game: int, coalitions: CoalitionMatrix) -> Any:
        """Start a task that measures coalitions in one of the games."""

    def wait(self, tasks: Sequence[Any]) -> Any:
        """Wait for the first finished task."""

    def result(self, task: Any) -> Values | None:
        """The result of a finished task.

        Raises:
            WorkerDiedError: if its worker died.
            ShapcutError: if it failed.
        """


@dataclass(slots=True)
class Piece:
    """Rows of a request for one worker, and the number of workers that died on them."""

    rows: NDArray[np.intp]
    deaths: int = 0


class Pieces:
    """The pending rows of a request, sorted by prefix.

    Args:
        coalitions: the request.
        workers: number of workers; pieces shrink towards the end, so that all finish together.
    """

    def __init__(self, coalitions: CoalitionMatrix, workers: int) -> None:
        self._rows = np.lexsort(coalitions.T[::-1])
        self._workers = workers
        self._returned: list[Piece] = []
        self.unfinished = len(self._rows)

    def take(self, most: int) -> Piece | None:
        """A piece of at most ``most`` rows, returned ones first; None if no row is pending."""
        if self._returned:
            return self._returned.pop()
        if not len(self._rows):
            return None
        size = min(most, -(-len(self._rows) // (2 * self._workers)))
        rows, self._rows = self._rows[:size], self._rows[size:]
        return Piece(rows)

    def give_back(self, piece: Piece) -> None:
        """Return a piece whose worker died."""
        piece.deaths += 1
        self._returned.append(piece)


@dataclass(slots=True)
class _Place:
    """One worker and its current task."""

    worker: Any
    task: Any
    piece: Piece | None = None
    begin: float = 0.0
    deaths: int = 0


class WorkerPool:
    """Measures coalitions with workers that start at the first request and are replaced when they die."""

    def __init__(self, workers: Workers) -> None:
        self._workers = workers
        self._places: list[_Place] = []
        self._most = 1

    def measure(self, game: int, coalitions: CoalitionMatrix) -> Iterator[tuple[NDArray[np.intp], Values]]:
        """Yield row numbers and values piece by piece.

        Raises:
            ShapcutError: if a worker fails, or workers die repeatedly.
        """
        self._places = self._places or [self._new_place() for _ in range(self._workers.count)]
        pieces = Pieces(coalitions, len(self._places))
        try:
            while pieces.unfinished:
                self._hand_out(pieces, game, coalitions)
                place = self._next_done()
                try:
                    values = self._workers.result(place.task)
                except WorkerDiedError as error:
                    self._replace(place, pieces, error)
                    continue
                piece, place.task, place.piece = place.piece, None, None
                if piece is not None and values is not None:
                    place.deaths = 0
                    self._adapt(len(piece.rows), time.monotonic() - place.begin)
                    pieces.unfinished -= len(piece.rows)
                    yield piece.rows, values
        finally:
            if pieces.unfinished:
                self.close()

    def close(self) -> None:
        """End all workers; the next request starts new ones."""
        for place in self._places:
            self._workers.stop(place.worker)
        self._places = []

    def _new_place(self, deaths: int = 0) -> _Place:
        worker = self._workers.start()
        return _Place(worker, self._workers.prepare(worker), deaths=deaths)

    def _hand_out(self, pieces: Pieces, game: int, coalitions: CoalitionMatrix) -> None:
        """Give every idle worker a piece."""
        for place in self._places:
            if place.task is None and (piece := pieces.take(self._most)):
                place.task = self._workers.measure(place.worker, game, coalitions[piece.rows])
                place.piece, place.begin = piece, time.monotonic()

    def _next_done(self) -> _Place:
        busy = [place for place in self._places if place.task is not None]
        done = self._workers.wait([place.task for place in busy])
        return next(place for place in busy if place.task is done)

    def _replace(self, place: _Place, pieces: Pieces, error: WorkerDiedError) -> None:
        """Replace a dead worker and return its piece.

        Raises:
            ShapcutError: if that has happened `MOST_DEATHS` times in a row.
        """
        piece, deaths = place.piece, place.deaths + 1
        if piece is not None:
            pieces.give_back(piece)
        if max(deaths, 0 if piece is None else piece.deaths) >= MOST_DEATHS:
            raise ShapcutError(
                f"workers died {MOST_DEATHS} times in a row ({error}); if memory is short for "
                f"{len(self._places)} copies of the model, ask for fewer workers"
            ) from error
        self._workers.stop(place.worker)
        self._places[self._places.index(place)] = self._new_place(deaths)

    def _adapt(self, rows: int, seconds: float) -> None:
        """Adapt the size of the next pieces to the duration of this one."""
        fitting = round(rows * _SECONDS_A_PIECE / max(seconds, 1e-6))
        self._most = min(max(1, fitting), 4 * max(rows, self._most), _MOST_ROWS)
