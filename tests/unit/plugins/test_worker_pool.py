"""Handing out coalitions to workers that may die: nothing lost, nothing twice, and an end to dying."""

from collections import Counter

import numpy as np
import pytest

from shapcut.game.coalitions import all_coalitions
from shapcut.support.errors import InputError, ShapcutError
from shapcut_plugins.executors.worker_pool import MOST_DEATHS, WorkerDiedError, WorkerPool, cuts, pieces

ROWS = all_coalitions(6)
WINDOWS = 5


def weights(coalitions):
    return (coalitions @ (1 << np.arange(6))).astype(np.float64)


def means(coalitions, game=0, first=0, last=WINDOWS):
    """The coalition's number, plus 1000 for the game, plus a tenth for the window."""
    return weights(coalitions)[:, None] + 1000 * game + np.arange(first, last) / 10


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

    def measure(self, worker, game, coalitions, first, last):
        def outcome():
            self.fate(worker, coalitions)
            self.asked.append((coalitions, first, last))
            return means(coalitions, game, first, last)

        return Task(worker, outcome)

    def wait(self, tasks):
        assert len({task.worker for task in tasks}) == len(tasks)
        return tasks[-1]

    def result(self, task):
        return task.outcome()


def measured(pool, rows=ROWS, game=0, first=0, last=WINDOWS):
    found = np.full((len(rows), last - first), np.nan)
    for part in pool.measure(game, 1, rows, first, last):
        columns = slice(part.first - first, part.first - first + part.means.shape[1])
        assert np.isnan(found[part.rows, columns]).all()
        found[part.rows, columns] = part.means
    return found


@pytest.mark.parametrize("count", [1, 2, 5])
def test_every_row_is_measured_once(count):
    workers = FakeWorkers(count)
    pool = WorkerPool(workers)
    order = np.random.default_rng(0).permutation(64)
    assert measured(pool, ROWS[order]).tolist() == means(ROWS[order]).tolist()
    assert measured(pool, ROWS[:3], game=1, first=2, last=4).tolist() == means(ROWS[:3], 1, 2, 4).tolist()
    assert sum(len(rows) * (last - first) for rows, first, last in workers.asked) == 64 * WINDOWS + 3 * 2
    assert workers.started == count


def test_workers_start_with_the_first_request_and_end_with_the_pool():
    workers = FakeWorkers()
    pool = WorkerPool(workers)
    assert workers.started == 0
    measured(pool)
    pool.close()
    assert sorted(workers.stopped) == [1, 2]


def test_pieces_hold_whole_subtrees():
    order = np.random.default_rng(0).permutation(64)
    made = pieces(ROWS[order], 0, 20, step=2, workers=1)
    spans = list(dict.fromkeys((piece.first, piece.last) for piece in made))
    assert [first for first, _ in spans] + [20] == [0, *(last for _, last in spans)]
    assert len(spans) == 8
    assert all(first % 2 == 0 for first, _ in spans)
    first, second = (ROWS[order][piece.rows] for piece in made if piece.first == 0)
    assert np.vstack([first, second]).tolist() == sorted(ROWS.tolist())
    assert not first[:, 0].any()
    assert second[:, 0].all()


def test_few_coalitions_are_divided_by_windows():
    made = pieces(ROWS[:8], 3, 12, step=2, workers=3)
    assert {len(piece.rows) for piece in made} == {8}
    assert [(piece.first, piece.last) for piece in made] == [(3, 5), (5, 7), (7, 9), (9, 11), (11, 12)]
    assert len(pieces(ROWS[:8], 0, 1, step=4, workers=3)) == 1


def test_cuts_are_where_neighbours_share_least():
    rows = ROWS[np.lexsort(ROWS.T[::-1])][3:]
    assert cuts(rows, 2) == [29]
    assert cuts(rows, 1) == []


def test_a_dead_worker_is_replaced_and_its_piece_measured_again():
    deaths = Counter()

    def fate(worker, coalitions):
        if worker in {2, 3} and coalitions is not None and len(workers.asked) >= 2:
            deaths[worker] += 1
            raise WorkerDiedError("killed")

    workers = FakeWorkers(fate=fate)
    assert measured(WorkerPool(workers)).tolist() == means(ROWS).tolist()
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
    assert measured(WorkerPool(workers)).tolist() == means(ROWS).tolist()
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
    request = pool.measure(0, 1, ROWS, 0, WINDOWS)
    next(request)
    request.close()
    assert sorted(workers.stopped) == [1, 2]
    assert measured(pool, game=1).tolist() == means(ROWS, 1).tolist()
    assert workers.started == 4
