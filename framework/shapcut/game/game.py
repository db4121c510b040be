"""The interface of a cooperative game."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shapcut.game.coalitions import CoalitionMatrix, Player, Values
from shapcut.game.groups import equal_by_group
from shapcut.support.errors import InputError

Measurements = NDArray[np.float64]
"""Shape (n_coalitions, 3): the value on all calibration text, then on each of two disjoint halves of it.

Unknown halves are NaN. The halves show how much the choice of text matters."""

Parts = Iterator[tuple[NDArray[np.intp], NDArray[np.float64]]]
"""Row numbers of a coalition matrix with the values or measurements of these rows; each row appears once."""


def as_measurements(found: NDArray[np.float64]) -> Measurements:
    """Return measurements unchanged; give values two NaN columns for the unknown halves."""
    if found.ndim == 2:  # noqa: PLR2004 - a table already
        return found
    return np.column_stack([found, np.full((len(found), 2), np.nan)])


WindowMeans = NDArray[np.float64]
"""Shape (n_coalitions, n_windows): the mean over the tokens of each window of text."""


@dataclass(frozen=True, slots=True, eq=False)
class WindowPart:
    """What was measured of some coalitions on a few windows.

    Attributes:
        rows: row numbers of the coalition matrix, shape (n,).
        first: the first of the windows.
        means: shape (n, number of windows).
    """

    rows: NDArray[np.intp]
    first: int
    means: WindowMeans

    @property
    def windows(self) -> slice:
        """The windows, as columns of the means of all windows."""
        return slice(self.first, self.first + self.means.shape[1])


def assembled(parts: Iterable[WindowPart], count: int, first: int, last: int) -> WindowMeans:
    """All parts of the windows from ``first`` to before ``last``, shape (count, last - first)."""
    means = np.empty((count, last - first), dtype=np.float64)
    for part in parts:
        start = part.first - first
        means[part.rows, start : start + part.means.shape[1]] = part.means
    return means


def over_text(means: WindowMeans) -> Measurements:
    """Means over all windows, over every second one and over the others; windows are of equal length.

    Returns:
        Shape (n_coalitions, 3); a single window has no halves, their means are NaN.
    """
    halves = [means[:, ::2], means[:, 1::2]] if means.shape[1] > 1 else 2 * [means * np.nan]
    with np.errstate(invalid="ignore"):  # a window of infinite loss
        return np.column_stack([part.mean(axis=1) for part in (means, *halves)])


_MATRIX = 2


def may_be_absent(players: Sequence[Player], absent: Sequence[int]) -> bool:
    """Whether all of these players are removable, and equally many of each group."""
    return all(players[player].removable for player in absent) and equal_by_group(players, absent)


class Game(ABC):
    """A set of players and the value of every coalition of them.

    Subclasses define `measurements`. It must be pure: a row's result never depends on the other rows.
    """

    @property
    @abstractmethod
    def players(self) -> tuple[Player, ...]:
        """The players, in order."""

    @abstractmethod
    def measurements(self, coalitions: CoalitionMatrix) -> Measurements:
        """The value of each row on all text and on two halves of it; see `as_measurements`."""

    def values(self, coalitions: CoalitionMatrix) -> Values:
        """The value of each row; higher is better.

        Args:
            coalitions: boolean, shape (n_coalitions, n_players); True where the player stays.

        Raises:
            InputError: if they are anything else.
        """
        given = np.asarray(coalitions)
        if given.ndim != _MATRIX or given.shape[1] != self.n_players or given.dtype != np.bool_:
            raise InputError(
                f"coalitions of shape {given.shape} and type {given.dtype}: a boolean matrix with "
                f"{self.n_players} columns is needed, True where the player stays"
            )
        return self.measurements(given)[:, 0]

    def permits(self, absent: Sequence[int]) -> bool:
        """Whether a model without these players can be built."""
        return may_be_absent(self.players, absent)

    @property
    def n_players(self) -> int:
        """Number of players."""
        return len(self.players)

    @property
    def access(self) -> object | None:
        """Access to the model behind the values, for methods that look inside; None if there is no model."""
        return None

    @property
    def tokens(self) -> int:
        """Tokens read for one coalition; 0 if values do not come from tokens."""
        return 0

    @property
    def narrowing_unit(self) -> int:
        """`narrowed` is cheapest at multiples of this number of tokens; 0 if it makes no difference."""
        return 0

    def narrowed(self, tokens: int) -> "Game":  # noqa: ARG002 - for games that have tokens
        """This game on its first windows: at most ``tokens`` tokens, but at least one window.

        Returns the game itself if it is no larger.
        """
        return self

    def tokens_of_part(self, share: int) -> int:
        """About one ``share``-th of the tokens: the nearest number at which `narrowed` is cheapest.

        All tokens if narrowing makes no difference.
        """
        unit = self.narrowing_unit
        return max(1, round(self.tokens / (unit * share))) * unit if unit else self.tokens


class WrappedGame(Game):
    """A game that delegates to another one; subclasses override what differs."""

    def __init__(self, game: Game) -> None:
        self.game = game

    @property
    def players(self) -> tuple[Player, ...]:
        """The wrapped game's players."""
        return self.game.players

    def measurements(self, coalitions: CoalitionMatrix) -> Measurements:
        """The wrapped game's measurements."""
        return self.game.measurements(coalitions)

    def permits(self, absent: Sequence[int]) -> bool:
        """Whether the wrapped game permits this set."""
        return self.game.permits(absent)

    @property
    def access(self) -> object | None:
        """The wrapped game's model."""
        return self.game.access

    @property
    def tokens(self) -> int:
        """The wrapped game's tokens."""
        return self.game.tokens

    @property
    def narrowing_unit(self) -> int:
        """The wrapped game's unit."""
        return self.game.narrowing_unit


class PiecewiseGame(Game):
    """A game that yields results in parts, so that a caller can store each part at once."""

    @abstractmethod
    def parts(self, coalitions: CoalitionMatrix) -> Parts:
        """The results of all rows, in parts of any size and order."""

    def measurements(self, coalitions: CoalitionMatrix) -> Measurements:
        """All parts combined."""
        found = np.empty((len(coalitions), 3), dtype=np.float64)
        for rows, known in self.parts(coalitions):
            found[rows] = as_measurements(known)
        return found


class WindowedGame(Game):
    """A game whose values come from means over windows of text.

    A value on more windows adds to what is known of fewer. Its `narrowed` form has the first of its windows.
    """

    @property
    @abstractmethod
    def windows(self) -> int:
        """Number of windows; 0 if values do not come from windows after all."""

    @property
    def windows_per_step(self) -> int:
        """Means do not depend on how windows are parted at multiples of this number."""
        return 1

    @abstractmethod
    def window_parts(self, coalitions: CoalitionMatrix, first: int, last: int) -> Iterator[WindowPart]:
        """Means of all rows on the windows from ``first`` to before ``last``, in parts worth keeping."""

    @abstractmethod
    def combined(self, means: WindowMeans, full: WindowMeans | None = None) -> Measurements:
        """The value of each row, from its means on all windows.

        Args:
            means: shape (n_coalitions, windows).
            full: the means with all players, shape (1, windows); None if the game itself shall know.
        """

    def measurements(self, coalitions: CoalitionMatrix) -> Measurements:
        """The value of each row, from all parts."""
        parts = self.window_parts(coalitions, 0, self.windows)
        return self.combined(assembled(parts, len(coalitions), 0, self.windows))


class FunctionGame(Game):
    """A game defined by a function of coalitions: for tests, recorded data and custom values."""

    def __init__(self, n_players: int, function: Callable[[CoalitionMatrix], Values]) -> None:
        if n_players < 1:
            raise InputError(f"a game of {n_players} players has no coalitions; at least 1 is needed")
        self._players = tuple(Player(i, f"player {i}", "block", 1) for i in range(n_players))
        self._function = function

    @property
    def players(self) -> tuple[Player, ...]:
        """Placeholder players of one parameter each, all removable."""
        return self._players

    def measurements(self, coalitions: CoalitionMatrix) -> Measurements:
        """The function's values as float64; the halves are unknown.

        Raises:
            InputError: if they are no numbers, or not one a coalition.
        """
        return as_measurements(one_number_each(self._function(coalitions), len(coalitions)))


def one_number_each(values: object, count: int) -> Values:
    """What a function returned for ``count`` coalitions, as float64, shape (count,).

    Raises:
        InputError: if it is anything else than one number a coalition.
    """
    try:
        found = np.asarray(values)
        numbers = found.astype(np.float64, casting="same_kind" if found.dtype.kind == "c" else "unsafe")
    except (TypeError, ValueError) as error:
        raise InputError(f"the game's function gives {type(values).__name__}, which is no numbers") from error
    if numbers.shape != (count,):
        raise InputError(
            f"the game's function gives values of shape {numbers.shape} for {count} coalitions; "
            f"expected ({count},)"
        )
    return numbers
