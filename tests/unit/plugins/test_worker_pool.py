"""Handing out coalitions to workers that may die: nothing lost, nothing twice, and an end to dying."""

from collections import Counter

import numpy as np
import pytest

from shapcut.game.coalitions import all_coalitions
from shapcut.support.errors import InputError, ShapcutError
from shapcut_plugins.executors.worker_pool import MOST_DEATHS, Pieces, WorkerDiedError, WorkerPool

ROWS = all_coalitions(6)


def weights(coalitions):
    return (coalitions @ (1 << np.arange(6))).astype(np.float64)


class Task:
    def __init__(self, worker, outcome):
        self.worker, self.outcome = worker, outcome


class FakeWorkers:
    """Workers that measure at once and end tasks in the reverse order; ``fate`` may raise for a task."""

    def __init__(self, count=2, fate=lambda worker, coalitions: None):
        self.count, self.fate = count, fate
        self.started = 0
        self.stopped = []
        self.asked = []

    def start(self):
        self.started += 1
        return self.started

    def stop(self, worker):
        self.stopped.append(worker)

    def prepare(self, worker):
        return Task(worker, lambda: self.fate(worker, None))

    def measure(self, worker, game, coalitions):
        def outcome():
            self.fate(worker, coalitions)
            self.asked.append(coalitions)
            return weights(coalitions) + 1000 * game

        return Task(worker, outcome)

    def wait(self, tasks):
        assert len({task.worker for task in tasks}) == len(tasks)
        return tasks[-1]

    def result(self, task):
        return task.outcome()


def measured(pool, rows=ROWS, game=0):
    values = np.full(len(rows), np.nan)
    for part, some in pool.measure(game, rows):
        assert np.isnan(values[part]).all()
        values[part] = some
    return values


@pytest.mark.parametrize("count", [1, 2, 5])
def test_every_row_is_measured_once(count):
    workers = FakeWorkers(count)
    pool = WorkerPool(workers)
    order = np.random.default_rng(0).permutation(64)
    assert measured(pool, ROWS[order]).tolist() == weights(ROWS[order]).tolist()
    assert measured(pool, ROWS[:3], game=1).tolist() == [1000, 1001, 1002]
    assert sum(map(len, workers.asked)) == 64 + 3
    assert workers.started == count


def test_workers_start_with_the_first_request_and_end_with_the_pool():
    workers = FakeWorkers()
    pool = WorkerPool(workers)
    assert workers.started == 0
    measured(pool)
    pool.close()
    assert sorted(workers.stopped) == [1, 2]


def test_pieces_hold_neighbours_grow_and_shrink():
    order = np.random.default_rng(0).permutation(64)
    pieces = Pieces(ROWS[order], 2)
    taken = [pieces.take(most) for most in (1, 4, 100, 100)]
    assert [len(piece.rows) for piece in taken] == [1, 4, 15, 11]
    together = ROWS[order][np.concatenate([piece.rows for piece in taken])].tolist()
    assert together == sorted(together)
    pieces.give_back(taken[1])
    assert pieces.take(1) is taken[1]
    assert taken[1].deaths == 1


def test_pieces_follow_from_the_time_that_they_take(monkeypatch):
    clock = iter(range(0, 100_000, 60))
    monkeypatch.setattr("shapcut_plugins.executors.worker_pool.time.monotonic", lambda: float(next(clock)))
    workers = FakeWorkers()
    measured(WorkerPool(workers))
    assert {len(piece) for piece in workers.asked} == {1}


def test_a_dead_worker_is_replaced_and_its_piece_measured_again():
    deaths = Counter()

    def fate(worker, coalitions):
        if worker in {2, 3} and coalitions is not None and len(workers.asked) >= 2:
            deaths[worker] += 1
            raise WorkerDiedError("killed")

    workers = FakeWorkers(fate=fate)
    assert measured(WorkerPool(workers)).tolist() == weights(ROWS).tolist()
    assert deaths == {2: 1, 3: 1}
    assert workers.started == 4
    assert workers.stopped == [2, 3]


def test_workers_may_die_as_often_as_they_like_if_work_gets_done_between():
    survived = set()

    def fate(worker, coalitions):
        done = len(workers.asked)
        if coalitions is not None and 1 <= done <= 5 and done not in survived:
            survived.add(done)
            raise WorkerDiedError("killed")

    workers = FakeWorkers(1, fate)
    assert measured(WorkerPool(workers)).tolist() == weights(ROWS).tolist()
    assert workers.started == 1 + 5


def test_a_piece_that_kills_whoever_has_it_ends_the_run():
    def fate(worker, coalitions):
        if coalitions is not None and (weights(coalitions) == 37).any():
            raise WorkerDiedError("out of memory")

    workers = FakeWorkers(fate=fate)
    with pytest.raises(ShapcutError, match=r"died 3 times in a row \(out of memory\).*fewer workers"):
        measured(WorkerPool(workers))
    assert workers.started == 2 + MOST_DEATHS - 1
    assert sorted(workers.stopped) == sorted({*workers.stopped}) == list(range(1, workers.started + 1))


def test_workers_that_never_get_ready_end_the_run():
    def fate(worker, coalitions):
        raise WorkerDiedError("no room")

    workers = FakeWorkers(1, fate)
    with pytest.raises(ShapcutError, match="no room"):
        measured(WorkerPool(workers))
    assert workers.started == MOST_DEATHS


def test_an_ordinary_error_ends_the_run_at_once():
    def fate(worker, coalitions):
        if coalitions is not None:
            raise InputError("the loss is nan")

    workers = FakeWorkers(fate=fate)
    with pytest.raises(InputError, match=r"^the loss is nan$"):
        measured(WorkerPool(workers))
    assert sorted(workers.stopped) == [1, 2]


def test_a_request_that_is_broken_off_leaves_no_old_task_behind():
    workers = FakeWorkers()
    pool = WorkerPool(workers)
    request = pool.measure(0, ROWS)
    next(request)
    request.close()
    assert sorted(workers.stopped) == [1, 2]
    assert measured(pool, game=1).tolist() == (weights(ROWS) + 1000).tolist()
    assert workers.started == 4
