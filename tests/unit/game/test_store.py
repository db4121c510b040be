"""The evaluation store and the game that looks values up in it."""

import sqlite3
import subprocess
import sys
from contextlib import closing

import numpy as np
import pytest

from shapcut.game import stored_game as stored_games
from shapcut.game.coalitions import all_coalitions, keys
from shapcut.game.game import FunctionGame, WindowedGame, WindowPart, over_text
from shapcut.game.store import EvaluationStore
from shapcut.game.stored_game import StoredGame, spans
from shapcut.support.errors import InputError, StoreMismatchError

N = 4
ROWS = all_coalitions(N)
FINGERPRINT = {"model": "abc", "data": "1"}


class Counting(FunctionGame):
    """Remembers the numbers of the coalitions that it was asked for, call by call."""

    def __init__(self):
        self.calls = []
        super().__init__(N, self._value)

    def _value(self, coalitions):
        numbers = coalitions @ (1 << np.arange(N))
        self.calls.append(numbers.tolist())
        return np.sqrt(numbers)

    @property
    def asked(self):
        return [number for call in self.calls for number in call]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "evaluations.sqlite"


@pytest.fixture
def store(path):
    opened = EvaluationStore(path)
    yield opened
    opened.close()


def stored_game(store, game, name="calibration", observe=None):
    return StoredGame(game, store, name=name, fingerprint=FINGERPRINT, observe=observe)


def test_the_file_is_in_wal_mode_and_synchronised(store):
    assert store._connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert store._connection.execute("PRAGMA synchronous").fetchone() == (2,)


def test_values_come_back_bit_for_bit_after_reopening(path):
    values = np.array([0.1, -1e-300, np.nan, np.inf, -np.inf, 3.0])
    first = EvaluationStore(path)
    first.open_game("calibration", FINGERPRINT)
    first.add("calibration", ROWS[:6], values)
    first.close()
    second = EvaluationStore(path)
    second.open_game("calibration", FINGERPRINT)
    found = second.lookup("calibration", ROWS)
    second.close()
    assert list(found) == keys(ROWS[:6])
    assert np.array([numbers[0] for numbers in found.values()]).tobytes() == values.tobytes()
    assert np.isnan([numbers[1:] for numbers in found.values()]).all()


def test_halves_of_the_text_are_kept_beside_the_value(store):
    store.open_game("calibration", FINGERPRINT)
    found = np.array([[1.0, 0.5, 1.5], [np.nan, np.inf, 2.0]])
    store.add("calibration", ROWS[:2], found)
    np.testing.assert_array_equal(list(store.lookup("calibration", ROWS).values()), found)


def test_a_store_of_an_earlier_version_keeps_its_values_and_takes_halves(path):
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(
            "CREATE TABLE games (name TEXT PRIMARY KEY, fingerprint TEXT NOT NULL) STRICT;"
            "CREATE TABLE evaluations (game TEXT NOT NULL REFERENCES games (name), coalition BLOB NOT NULL, "
            "value REAL, PRIMARY KEY (game, coalition)) STRICT, WITHOUT ROWID;"
            "INSERT INTO games VALUES ('calibration', '{}');"
        )
        with connection:
            connection.execute("INSERT INTO evaluations VALUES ('calibration', ?, 2.5)", (keys(ROWS[:1])[0],))
    store = EvaluationStore(path)
    store.open_game("calibration", {})
    store.add("calibration", ROWS[1:2], np.array([[1.0, 0.5, 1.5]]))
    old, new = store.lookup("calibration", ROWS[:2]).values()
    store.close()
    assert old[0] == 2.5
    assert np.isnan(old[1:]).all()
    assert new == [1.0, 0.5, 1.5]


def test_another_fingerprint_is_refused_naming_what_differs(store):
    store.open_game("calibration", FINGERPRINT)
    with pytest.raises(StoreMismatchError, match=r"stored .*'1'.* expected .*'2'") as error:
        store.open_game("calibration", {**FINGERPRINT, "data": "2"})
    assert "abc" not in str(error.value)
    store.open_game("calibration", dict(reversed(FINGERPRINT.items())))


class OnText(FunctionGame):
    """Has tokens, and a narrower form with fewer."""

    def __init__(self, tokens):
        self._tokens = tokens
        super().__init__(N, lambda rows: rows.sum(axis=1) / self._tokens)

    @property
    def tokens(self):
        return self._tokens

    def narrowed(self, tokens):
        return self if tokens >= self._tokens else OnText(tokens)


def test_a_coalition_on_a_part_of_the_text_counts_as_that_part_of_one(store):
    totals = []
    game = stored_game(store, OnText(800), observe=lambda _rows, _values, total: totals.append(total))
    quarter = game.narrowed(200)
    quarter.values(ROWS[:6])
    quarter.narrowed(100).values(ROWS[:4])
    game.values(ROWS[:3])
    assert totals[-1] == 5
    assert game.measured_in_all() == game.stored_in_all() == 6 / 4 + 4 / 8 + 3
    assert game.measured == 3
    again = stored_game(store, OnText(800))
    again.narrowed(200).values(ROWS[:6])
    assert again.measured_in_all() == 0
    assert again.stored_in_all() == 6 / 4 + 3


def test_two_games_in_one_file(store):
    store.open_game("calibration", FINGERPRINT)
    store.open_game("finals", {"model": "abc", "data": "more"})
    store.add("calibration", ROWS[:3], np.array([1.0, 2.0, 3.0]))
    store.add("finals", ROWS[2:4], np.array([30.0, 40.0]))
    assert [numbers[0] for numbers in store.lookup("calibration", ROWS).values()] == [1.0, 2.0, 3.0]
    assert [numbers[0] for numbers in store.lookup("finals", ROWS).values()] == [30.0, 40.0]
    assert (store.count("calibration"), store.count("finals"), store.count("none")) == (3, 2, 0)


def test_a_chunk_is_stored_as_a_whole_or_not_at_all(store):
    store.open_game("calibration", FINGERPRINT)
    store._connection.execute(
        "CREATE TEMP TRIGGER fail BEFORE INSERT ON evaluations WHEN NEW.value = 2.0 "
        "BEGIN SELECT RAISE(ABORT, 'disk full'); END"
    )
    with pytest.raises(InputError, match="disk full"):
        store.add("calibration", ROWS[:3], np.array([1.0, 2.0, 3.0]))
    assert store.count("calibration") == 0
    store.add("calibration", ROWS[:2], np.array([1.0, 3.0]))
    assert store.count("calibration") == 2


def test_as_many_values_as_coalitions(store):
    store.open_game("calibration", FINGERPRINT)
    with pytest.raises(ValueError, match="shorter"):
        store.add("calibration", ROWS[:3], np.array([1.0, 2.0]))
    assert store.count("calibration") == 0


def test_what_is_no_store_is_an_input_error(path):
    path.write_bytes(b"this is not a database, but long enough to be taken for one" * 20)
    with pytest.raises(InputError, match=r"cannot use the evaluation store .*not a database"):
        EvaluationStore(path)
    with pytest.raises(InputError, match="unable to open"):
        EvaluationStore(path / "below")


def test_another_programs_database_is_an_input_error(path):
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE games (title TEXT)")
    connection.close()
    store = EvaluationStore(path)
    with pytest.raises(InputError, match="cannot use the evaluation store"):
        store.open_game("calibration", FINGERPRINT)
    store.close()


def test_damaged_pages_are_an_input_error(path):
    first = EvaluationStore(path)
    first.open_game("calibration", FINGERPRINT)
    first.add("calibration", ROWS, np.arange(16.0))
    first.close()
    content = bytearray(path.read_bytes())
    content[4096:] = b"\xff" * (len(content) - 4096)
    path.write_bytes(content)
    with pytest.raises(InputError, match="cannot use the evaluation store"):  # noqa: PT012 - whichever is first
        second = EvaluationStore(path)
        try:
            second.open_game("calibration", FINGERPRINT)
            second.lookup("calibration", ROWS)
        finally:
            second.close()


def test_a_second_process_reads_while_the_first_writes(path, store):
    store.open_game("calibration", FINGERPRINT)
    store.add("calibration", ROWS[:3], np.arange(3.0))
    script = (
        "import sys, numpy as np; from pathlib import Path; from shapcut.game.store import EvaluationStore\n"
        "store = EvaluationStore(Path(sys.argv[1])); print(store.count('calibration')); store.close()"
    )
    store._connection.execute("BEGIN IMMEDIATE")
    store._connection.execute("DELETE FROM evaluations")
    done = subprocess.run(
        [sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=True, timeout=60
    )
    store._connection.execute("ROLLBACK")
    assert done.stdout == "3\n"


def test_stored_game_asks_for_nothing_twice_even_after_reopening(path):
    game, first = Counting(), EvaluationStore(path)
    values = stored_game(first, game).values(ROWS[[3, 1, 3, 2]])
    assert values.tolist() == np.sqrt([3, 1, 3, 2]).tolist()
    first.close()
    assert sorted(game.asked) == [1, 2, 3]
    again, second = Counting(), EvaluationStore(path)
    stored = stored_game(second, again)
    assert stored.values(ROWS[[2, 5, 1]]).tolist() == np.sqrt([2, 5, 1]).tolist()
    assert again.asked == [5]
    assert stored.measured == 1
    second.close()


def test_stored_game_keeps_what_was_measured_before_an_interruption(store):
    class Failing(Counting):
        def _value(self, coalitions):
            if len(self.asked) >= 4:
                raise KeyboardInterrupt
            return super()._value(coalitions)

    game = Failing()
    with pytest.raises(KeyboardInterrupt):
        stored_game(store, game).values(ROWS)
    assert store.count("calibration") == len(game.asked) > 0
    rest = Counting()
    assert stored_game(store, rest).values(ROWS).tolist() == np.sqrt(np.arange(16)).tolist()
    assert sorted(game.asked + rest.asked) == list(range(16))


def test_stored_game_gives_the_same_values_in_any_order(store):
    game = Counting()
    stored = stored_game(store, game)
    order = np.random.default_rng(0).permutation(16)
    assert stored.values(ROWS[order]).tolist() == np.sqrt(order).tolist()
    assert stored.values(ROWS).tolist() == np.sqrt(np.arange(16)).tolist()
    assert len(game.asked) == 16


def test_a_value_that_is_not_finite_is_not_measured_again(store):
    game = FunctionGame(N, lambda rows: np.full(len(rows), np.nan))
    assert np.isnan(stored_game(store, game).values(ROWS[:2])).all()
    counting = Counting()
    assert np.isnan(stored_game(store, counting).values(ROWS[:2])).all()
    assert counting.asked == []


def test_chunks_grow_with_the_clock_and_share_prefixes(store, monkeypatch):
    clock = iter(range(1000))
    monkeypatch.setattr(stored_games.time, "monotonic", lambda: float(next(clock)))
    game = Counting()
    stored_game(store, game).values(ROWS)
    assert [len(call) for call in game.calls] == [1, 4, 11]
    rows = ROWS[game.asked].tolist()
    assert rows == sorted(rows)


def test_slow_values_are_stored_one_by_one(store, monkeypatch):
    clock = iter(range(0, 100_000, 60))
    monkeypatch.setattr(stored_games.time, "monotonic", lambda: float(next(clock)))
    game = Counting()
    stored_game(store, game).values(ROWS[:5])
    assert [len(call) for call in game.calls] == [1] * 5


def test_observer_sees_each_chunk_after_it_was_stored(store):
    seen = []

    def observe(coalitions, values, total):
        assert store.count("calibration") == total
        seen.append((coalitions, values))

    stored = stored_game(store, Counting(), observe=observe)
    stored.values(ROWS[:7])
    stored.values(ROWS[:9])
    coalitions = np.vstack([chunk for chunk, _ in seen])
    assert (
        np.concatenate([values for _, values in seen]).tolist()
        == np.sqrt(coalitions @ (1 << np.arange(N))).tolist()
    )
    assert len(set(keys(coalitions))) == len(coalitions) == 9


def test_permits_and_players_are_the_wrapped_games(store):
    game = Counting()
    game.permits = lambda absent: list(absent) == [2]
    stored = stored_game(store, game)
    assert stored.permits([2])
    assert not stored.permits([1])
    assert stored.players == game.players


class OnWindows(WindowedGame):
    """The value is the mean over windows of the coalition's number plus the window's; notes what is asked."""

    def __init__(self, windows=4, asked=None, fail_at=None):
        self._windows = windows
        self.asked = [] if asked is None else asked
        self._fail_at = fail_at

    @property
    def players(self):
        return FunctionGame(N, lambda rows: rows[:, 0]).players

    @property
    def windows(self):
        return self._windows

    @property
    def tokens(self):
        return 10 * self._windows

    def narrowed(self, tokens):
        return self if tokens >= self.tokens else OnWindows(tokens // 10, self.asked, self._fail_at)

    def window_parts(self, coalitions, first, last):
        numbers = coalitions @ (1 << np.arange(N))
        for window in range(first, last):
            for rows in (np.arange(len(numbers))[::2], np.arange(len(numbers))[1::2]):
                if len(self.asked) == self._fail_at:
                    raise KeyboardInterrupt
                if len(rows):
                    self.asked.append((window, numbers[rows].tolist()))
                    yield WindowPart(rows, window, numbers[rows, None] + float(window))

    def combined(self, means):
        return over_text(means)


def asked_once(game):
    asked = [(window, number) for window, numbers in game.asked for number in numbers]
    assert len(set(asked)) == len(asked)
    return sorted(asked)


def test_a_value_on_more_windows_adds_to_the_one_on_fewer(store):
    game, totals = OnWindows(), []
    stored = stored_game(store, game, observe=lambda _rows, _values, total: totals.append(total))
    half = stored.narrowed(20)
    assert half.values(ROWS[:8]).tolist() == [number + 0.5 for number in range(8)]
    assert (stored.stored_in_all(), stored.measured_in_all()) == (4.0, 4.0)
    assert stored.values(ROWS[4:12]).tolist() == [number + 1.5 for number in range(4, 12)]
    assert stored.measurements(ROWS[4:5]).tolist() == [[5.5, 5.0, 6.0]]
    assert len(asked_once(game)) == 8 * 2 + 4 * 2 + 4 * 4
    assert (stored.stored_in_all(), stored.measured_in_all()) == (10.0, 10.0)
    assert totals == sorted(totals)
    assert totals[-1] == 10
    assert (store.count("calibration"), store.count_windows("calibration")) == (8, 8)
    assert half.values(ROWS[4:5]).tolist() == [4.5]


@pytest.mark.parametrize("fail_at", [0, 1, 3, 6, 7])
def test_an_interrupted_run_repeats_no_window(path, fail_at):
    asked, first = [], EvaluationStore(path)
    with pytest.raises(KeyboardInterrupt):
        stored_game(first, OnWindows(asked=asked, fail_at=fail_at)).values(ROWS)
    first.close()
    rest, second = OnWindows(asked=asked), EvaluationStore(path)
    found = stored_game(second, rest).measurements(ROWS)
    assert found.tolist() == [[number + 1.5, number + 1.0, number + 2.0] for number in range(16)]
    assert len(asked_once(rest)) == 16 * 4
    assert (second.count("calibration"), second.measured("calibration")) == (16, 16)
    assert second.count_windows("calibration") == 0
    second.close()


def test_windows_that_were_damaged_are_measured_again(store):
    game = OnWindows()
    stored_game(store, game).narrowed(10).values(ROWS[:3])
    store._connection.execute("UPDATE windows SET means = zeroblob(8) WHERE coalition = ?", (keys(ROWS)[1],))
    assert stored_game(store, game).values(ROWS[:3]).tolist() == [1.5, 2.5, 3.5]
    assert store.damaged == 1


def test_windows_of_no_finite_value_are_measured_again(store):
    class Broken(OnWindows):
        def narrowed(self, tokens):
            return Broken(tokens // 10)

        def window_parts(self, coalitions, first, last):
            for part in super().window_parts(coalitions, first, last):
                yield WindowPart(part.rows, part.first, part.means * np.nan)

    stored = stored_game(store, Broken())
    assert np.isnan(stored.narrowed(10).values(ROWS[:3])).all()
    assert np.isnan(stored.values(ROWS[:3])).all()


@pytest.mark.parametrize(
    ("missing", "expected"),
    [
        ([[1, 1, 1], [1, 1, 1]], [([0, 1], 0, 3)]),
        ([[0, 0, 1], [1, 1, 1], [0, 0, 1]], [([0, 2], 2, 3), ([1], 0, 3)]),
        ([[1, 0, 1]], [([0], 0, 1), ([0], 2, 3)]),
        ([[0, 0, 0]], []),
    ],
)
def test_spans_of_windows_that_are_missing(missing, expected):
    found = [(rows.tolist(), first, last) for rows, first, last in spans(np.array(missing, dtype=bool))]
    assert found == expected
