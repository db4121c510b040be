"""An SQLite store of evaluations, from which a run resumes."""

import json
import sqlite3
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from shapcut.game.coalitions import CoalitionMatrix, Values, keys
from shapcut.game.game import Measurements, WindowMeans, WindowPart, as_measurements
from shapcut.support.errors import InputError, StoreMismatchError

Fingerprint = Mapping[str, str]


_SCHEMA = """
CREATE TABLE IF NOT EXISTS games (name TEXT PRIMARY KEY, fingerprint TEXT NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS evaluations (
    game TEXT NOT NULL REFERENCES games (name),
    coalition BLOB NOT NULL,
    value REAL,  -- NULL: NaN
    first_half REAL,  -- on each half of the text; NULL: NaN or unknown
    second_half REAL,
    checksum INTEGER,  -- of the columns above; NULL: written by an earlier version
    PRIMARY KEY (game, coalition)
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS windows (  -- of coalitions whose value on all text is not known yet
    game TEXT NOT NULL REFERENCES games (name),
    coalition BLOB NOT NULL,
    first INTEGER NOT NULL,
    means BLOB NOT NULL,  -- float64, little-endian: of each window from the first on
    checksum INTEGER NOT NULL,
    PRIMARY KEY (game, coalition, first)
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS durations (
    game TEXT PRIMARY KEY REFERENCES games (name),
    evaluations INTEGER NOT NULL,
    seconds REAL NOT NULL
) STRICT;
"""


_INSERT = """
INSERT OR REPLACE INTO evaluations (game, coalition, value, first_half, second_half, checksum)
VALUES (?, ?, ?, ?, ?, ?)
"""

_ADDED_COLUMNS = {"first_half": "REAL", "second_half": "REAL", "checksum": "INTEGER"}

_ADD_DURATION = """
INSERT INTO durations VALUES (?, ?, ?) ON CONFLICT (game) DO UPDATE SET
evaluations = evaluations + excluded.evaluations, seconds = seconds + excluded.seconds
"""

Numbers = tuple[float | None, ...]


def _checksum(game: str, coalition: bytes, numbers: Numbers) -> int:
    """CRC-32 of a row, to detect flipped bits."""
    known = ["" if number is None else float(number).hex() for number in numbers]
    return zlib.crc32(b"\0".join([game.encode(), coalition, *(text.encode() for text in known)]))


class EvaluationStore:
    """Coalitions and their values in an SQLite file; each chunk is one transaction.

    One file may hold several games (on few tokens for the search, on many for the finalists), each with the
    fingerprint of its model, data and utility.

    Raises:
        InputError: here and in every method, if the file cannot be opened, read or written, or is not an
            evaluation store.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.damaged = 0
        with self._named_errors():
            self._connection = sqlite3.connect(path, timeout=1.0, isolation_level=None)
        try:
            with self._named_errors():
                self._connection.execute("PRAGMA journal_mode=WAL")
                self._connection.execute("PRAGMA synchronous=FULL")
                self._connection.executescript(_SCHEMA)
                self._add_columns()
                self._check_structure()
        except InputError:
            self.close()
            raise

    def _add_columns(self) -> None:
        """Add the columns that a file of an earlier version lacks."""
        columns = self._connection.execute("SELECT name FROM pragma_table_info('evaluations')").fetchall()
        for name, kind in _ADDED_COLUMNS.items():
            if (name,) not in columns:
                self._connection.execute(f"ALTER TABLE evaluations ADD COLUMN {name} {kind}")

    def _check_structure(self) -> None:
        """Run SQLite's integrity check: in a damaged file, a lookup can miss stored values."""
        found = self._connection.execute("PRAGMA quick_check(1)").fetchone()[0]
        if found != "ok":
            raise sqlite3.DatabaseError(found)

    @contextmanager
    def _named_errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:  # such as a full disk
            raise InputError(
                f"cannot use the evaluation store {self.path}: {error}; fix the cause or choose another --run"
            ) from error
        except (sqlite3.Error, ValueError, TypeError, OverflowError) as error:
            raise InputError(
                f"cannot use the evaluation store {self.path}: it is damaged ({error}); restore it, "
                "or move it away to measure everything again"
            ) from error

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def open_game(self, name: str, fingerprint: Fingerprint) -> None:
        """Start or continue a game.

        Raises:
            StoreMismatchError: if the store holds this game with another fingerprint; the message shows the
                differences.
        """
        if self.holds(name, fingerprint):
            return
        text = json.dumps(dict(fingerprint), sort_keys=True)
        with self._named_errors():
            self._connection.execute("INSERT INTO games VALUES (?, ?)", (name, text))

    def holds(self, name: str, fingerprint: Fingerprint) -> bool:
        """Whether the store holds a game; nothing is written.

        Raises:
            StoreMismatchError: if it holds the game with another fingerprint; the message shows the
                differences.
        """
        text = json.dumps(dict(fingerprint), sort_keys=True)
        with self._named_errors():
            found = self._connection.execute("SELECT fingerprint FROM games WHERE name = ?", (name,))
            row = found.fetchone()
        if row is not None and row[0] != text:
            with self._named_errors():
                stored, wanted = dict(json.loads(row[0])), dict(fingerprint)
            differing = sorted(k for k in {*stored, *wanted} if stored.get(k) != wanted.get(k))
            was, now = ({key: side.get(key) for key in differing} for side in (stored, wanted))
            raise StoreMismatchError(
                f"{self.path} belongs to another run: stored {was}, expected {now}; choose another --run"
            )
        return row is not None

    def lookup(self, name: str, coalitions: CoalitionMatrix) -> dict[bytes, list[float]]:
        """Stored measurements of the given rows, by packed coalition; skips and counts damaged ones."""
        query = (
            "SELECT value, first_half, second_half, checksum FROM evaluations "
            "WHERE game = ? AND coalition = ?"
        )
        known = {}
        with self._named_errors():
            for key in dict.fromkeys(keys(coalitions)):
                row = self._connection.execute(query, (name, key)).fetchone()
                if row is None:
                    continue
                *numbers, checksum = row
                if checksum is not None and checksum != _checksum(name, key, tuple(numbers)):
                    self.damaged += 1
                    continue
                known[key] = [np.nan if number is None else float(number) for number in numbers]
        return known

    def add(
        self, name: str, coalitions: CoalitionMatrix, found: Values | Measurements, seconds: float = 0.0
    ) -> None:
        """Store a chunk in one transaction; non-finite values are kept.

        Args:
            name: the game's name.
            coalitions: the chunk.
            found: its values or measurements.
            seconds: the time that measuring it took.
        """
        rows = []
        for key, numbers in zip(keys(coalitions), as_measurements(found).tolist(), strict=True):
            plain = tuple(None if np.isnan(number) else number for number in numbers)
            rows.append((name, key, *plain, _checksum(name, key, plain)))
        with self._named_errors(), self._connection:
            self._connection.execute("BEGIN IMMEDIATE")
            self._connection.executemany(_INSERT, rows)
            self._connection.execute(_ADD_DURATION, (name, len(rows), seconds))
            forgotten = "DELETE FROM windows WHERE game = ? AND coalition = ?"
            self._connection.executemany(forgotten, [row[:2] for row in rows])

    def add_windows(
        self, name: str, coalitions: CoalitionMatrix, part: WindowPart, *, of: str, seconds: float = 0.0
    ) -> None:
        """Store what is known of coalitions on a few windows, in one transaction.

        Args:
            name: the game on all windows; its values replace these once they are added.
            coalitions: the rows of ``part``.
            part: the means.
            of: the game that took the time.
            seconds: the time that measuring took.
        """
        means = np.ascontiguousarray(part.means, dtype="<f8")
        rows = [
            (name, key, part.first, row.tobytes(), zlib.crc32(row.tobytes()))
            for key, row in zip(keys(coalitions), means, strict=True)
        ]
        with self._named_errors(), self._connection:
            self._connection.execute("BEGIN IMMEDIATE")
            self._connection.executemany("INSERT OR REPLACE INTO windows VALUES (?, ?, ?, ?, ?)", rows)
            self._connection.execute(_ADD_DURATION, (of, 0, seconds))

    def lookup_windows(self, name: str, coalitions: CoalitionMatrix, windows: int) -> WindowMeans:
        """Stored means on the first ``windows`` windows, (n_coalitions, windows); NaN where none is stored.

        Means that are NaN themselves are measured again; damaged rows are skipped and counted.
        """
        found = np.full((len(coalitions), windows), np.nan)
        query = "SELECT first, means, checksum FROM windows WHERE game = ? AND coalition = ? AND first < ?"
        with self._named_errors():
            for row, key in enumerate(keys(coalitions)):
                for first, means, checksum in self._connection.execute(query, (name, key, windows)):
                    if zlib.crc32(means) != checksum:
                        self.damaged += 1
                        continue
                    known = np.frombuffer(means, dtype="<f8")[: windows - first]
                    found[row, first : first + len(known)] = known
        return found

    def count_windows(self, name: str) -> int:
        """Stored windows of a game's coalitions whose value on all text is not known yet."""
        query = "SELECT COALESCE(SUM(LENGTH(means)), 0) FROM windows WHERE game = ?"
        with self._named_errors():
            return int(self._connection.execute(query, (name,)).fetchone()[0]) // 8

    def seconds_per_evaluation(self, name: str) -> float:
        """Mean time to measure one coalition of a game; 0 if none was measured."""
        query = "SELECT seconds / evaluations FROM durations WHERE game = ? AND evaluations > 0"
        with self._named_errors():
            row = self._connection.execute(query, (name,)).fetchone()
        return 0.0 if row is None else float(row[0])

    def measured(self, name: str) -> int:
        """Number of evaluations of a game over all starts; equals `count` if none was repeated."""
        query = "SELECT evaluations FROM durations WHERE game = ?"
        with self._named_errors():
            row = self._connection.execute(query, (name,)).fetchone()
        return 0 if row is None else int(row[0])

    def count(self, name: str) -> int:
        """Number of stored evaluations of a game."""
        with self._named_errors():
            found = self._connection.execute("SELECT COUNT(*) FROM evaluations WHERE game = ?", (name,))
            return int(found.fetchone()[0])
