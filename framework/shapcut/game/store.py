"""Every evaluation kept: the resume point of a run."""

import json
import sqlite3
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from shapcut.game.coalitions import CoalitionMatrix, Values, keys
from shapcut.game.game import Measurements, as_measurements
from shapcut.support.errors import InputError, StoreMismatchError

Fingerprint = Mapping[str, str]


_SCHEMA = """
CREATE TABLE IF NOT EXISTS games (name TEXT PRIMARY KEY, fingerprint TEXT NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS evaluations (
    game TEXT NOT NULL REFERENCES games (name),
    coalition BLOB NOT NULL,
    value REAL,  -- NULL: not a number
    first_half REAL,  -- on halves of the text; NULL: not a number, or not known
    second_half REAL,
    checksum INTEGER,  -- of all before it; NULL: written by an earlier version
    PRIMARY KEY (game, coalition)
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

Numbers = tuple[float | None, ...]


def _checksum(game: str, coalition: bytes, numbers: Numbers) -> int:
    """What tells a row from one in which a bit has changed."""
    known = ["" if number is None else float(number).hex() for number in numbers]
    return zlib.crc32(b"\0".join([game.encode(), coalition, *(text.encode() for text in known)]))


class EvaluationStore:
    """Coalitions and their values in an SQLite file, each chunk committed as a whole.

    One file may hold several games (scouts on few tokens, finalists on many), each with the fingerprint of
    the model, data and utility that its values belong to.

    Raises:
        InputError: here and later, if the file cannot be opened, read or written, or is no evaluation store.
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
        """Give a file of an earlier version the columns that it lacks."""
        columns = self._connection.execute("SELECT name FROM pragma_table_info('evaluations')").fetchall()
        for name, kind in _ADDED_COLUMNS.items():
            if (name,) not in columns:
                self._connection.execute(f"ALTER TABLE evaluations ADD COLUMN {name} {kind}")

    def _check_structure(self) -> None:
        """Let SQLite look for damage: a lookup might go past it and take stored values for missing ones."""
        found = self._connection.execute("PRAGMA quick_check(1)").fetchone()[0]
        if found != "ok":
            raise sqlite3.DatabaseError(found)

    @contextmanager
    def _named_errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:  # such as a full disk
            raise InputError(
                f"cannot use the evaluation store {self.path}: {error}; put that right or name another --run"
            ) from error
        except (sqlite3.Error, ValueError, TypeError, OverflowError) as error:
            raise InputError(
                f"cannot use the evaluation store {self.path}: it is damaged ({error}); restore it, "
                "or move it away and everything is measured again"
            ) from error

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def open_game(self, name: str, fingerprint: Fingerprint) -> None:
        """Start or continue a game.

        Raises:
            StoreMismatchError: if the store holds that game for something else; both fingerprints are named.
        """
        text = json.dumps(dict(fingerprint), sort_keys=True)
        with self._named_errors():
            found = self._connection.execute("SELECT fingerprint FROM games WHERE name = ?", (name,))
            row = found.fetchone()
            if row is None:
                self._connection.execute("INSERT INTO games VALUES (?, ?)", (name, text))
        if row is not None and row[0] != text:
            with self._named_errors():
                stored, wanted = dict(json.loads(row[0])), dict(fingerprint)
            differing = sorted(k for k in {*stored, *wanted} if stored.get(k) != wanted.get(k))
            was, now = ({key: side.get(key) for key in differing} for side in (stored, wanted))
            raise StoreMismatchError(
                f"{self.path} belongs to another run: stored {was}, wanted {now}; name another run directory"
            )

    def lookup(self, name: str, coalitions: CoalitionMatrix) -> dict[bytes, list[float]]:
        """The stored measurements among the given rows, by packed coalition."""
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
        """Store a chunk, all of it or nothing; NaN and infinity are stored as such.

        Args:
            name: the game's.
            coalitions: the chunk.
            found: its values or measurements.
            seconds: what measuring it took.
        """
        rows = []
        for key, numbers in zip(keys(coalitions), as_measurements(found).tolist(), strict=True):
            plain = tuple(None if np.isnan(number) else number for number in numbers)
            rows.append((name, key, *plain, _checksum(name, key, plain)))
        with self._named_errors(), self._connection:
            self._connection.execute("BEGIN IMMEDIATE")
            self._connection.executemany(_INSERT, rows)
            self._connection.execute(
                "INSERT INTO durations VALUES (?, ?, ?) ON CONFLICT (game) DO UPDATE SET "
                "evaluations = evaluations + excluded.evaluations, seconds = seconds + excluded.seconds",
                (name, len(rows), seconds),
            )

    def seconds_per_evaluation(self, name: str) -> float:
        """What measuring one coalition of a game has taken on average; 0 if nothing was measured."""
        query = "SELECT seconds / evaluations FROM durations WHERE game = ? AND evaluations > 0"
        with self._named_errors():
            row = self._connection.execute(query, (name,)).fetchone()
        return 0.0 if row is None else float(row[0])

    def measured(self, name: str) -> int:
        """How many evaluations of a game have been made, by all starts together; `count` if none twice."""
        query = "SELECT evaluations FROM durations WHERE game = ?"
        with self._named_errors():
            row = self._connection.execute(query, (name,)).fetchone()
        return 0 if row is None else int(row[0])

    def count(self, name: str) -> int:
        """How many evaluations of a game are stored."""
        with self._named_errors():
            found = self._connection.execute("SELECT COUNT(*) FROM evaluations WHERE game = ?", (name,))
            return int(found.fetchone()[0])
