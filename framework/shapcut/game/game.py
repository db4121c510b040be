"""What a cooperative game is, apart from any model."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from shapcut.game.coalitions import CoalitionMatrix, Player, Values

Measurements = NDArray[np.float64]
"""Shape (n_coalitions, 3): the value on all calibration text, then on each of two disjoint halves of it.

The halves are NaN where they are not known; they tell how much the choice of text matters."""

Parts = Iterator[tuple[NDArray[np.intp], NDArray[np.float64]]]
"""Row numbers of a coalition matrix and the values or measurements of these rows, until every row has come up
once."""


def as_measurements(found: NDArray[np.float64]) -> Measurements:
    """Measurements as they are, values with unknown halves."""
    if found.ndim == 2:  # noqa: PLR2004 - a table already
        return found
    return np.column_stack([found, np.full((len(found), 2), np.nan)])


class Game(ABC):
    """A set of players and the value of every coalition of them.

    `values` is pure: the same row gives the same value, in whatever company it is asked for.
    """

    @property
    @abstractmethod
    def players(self) -> tuple[Player, ...]:
        """The players, in order."""

    @abstractmethod
    def values(self, coalitions: CoalitionMatrix) -> Values:
        """The value of each row of a (n_coalitions, n_players) matrix; higher is better."""

    def measurements(self, coalitions: CoalitionMatrix) -> Measurements:
        """As `values`, with the values on two halves of the text where the game knows them."""
        return as_measurements(self.values(coalitions))

    def permits(self, absent: Sequence[int]) -> bool:
        """Whether a result without these players can be built at all."""
        return all(self.players[player].removable for player in absent)

    @property
    def n_players(self) -> int:
        """Number of players."""
        return len(self.players)

    @property
    def access(self) -> object | None:
        """Access to what the values come from, for methods that look inside; None if there is none."""
        return None

    @property
    def tokens(self) -> int:
        """Tokens that one coalition is valued on; 0 if values do not come from tokens."""
        return 0

    def narrowed(self, tokens: int) -> "Game":  # noqa: ARG002 - for games that have tokens
        """The same game on the first of its windows: at most ``tokens`` tokens, but at least one window.

        The game itself if it has no more tokens than that.
        """
        return self


class WrappedGame(Game):
    """A game that answers as another does; what is different is up to its subclasses."""

    def __init__(self, game: Game) -> None:
        self.game = game

    @property
    def players(self) -> tuple[Player, ...]:
        """The wrapped game's players."""
        return self.game.players

    def permits(self, absent: Sequence[int]) -> bool:
        """The wrapped game's answer."""
        return self.game.permits(absent)

    @property
    def access(self) -> object | None:
        """The wrapped game's model."""
        return self.game.access

    @property
    def tokens(self) -> int:
        """The wrapped game's tokens."""
        return self.game.tokens


class PiecewiseGame(Game):
    """A game that tells values in parts, as they become known: whoever keeps them can keep each at once."""

    @abstractmethod
    def parts(self, coalitions: CoalitionMatrix) -> Parts:
        """The values of all rows, in parts of any size and order."""

    def values(self, coalitions: CoalitionMatrix) -> Values:
        """All parts put together."""
        return self.measurements(coalitions)[:, 0]

    def measurements(self, coalitions: CoalitionMatrix) -> Measurements:
        """All parts put together."""
        found = np.empty((len(coalitions), 3), dtype=np.float64)
        for rows, known in self.parts(coalitions):
            found[rows] = as_measurements(known)
        return found


class FunctionGame(Game):
    """A game given by a function of coalitions: for tests, recorded data and users' own values."""

    def __init__(self, n_players: int, function: Callable[[CoalitionMatrix], Values]) -> None:
        self._players = tuple(Player(i, f"player {i}", "block", 1) for i in range(n_players))
        self._function = function

    @property
    def players(self) -> tuple[Player, ...]:
        """Players without parameters worth speaking of, all removable."""
        return self._players

    def values(self, coalitions: CoalitionMatrix) -> Values:
        """The function's values as float64."""
        return np.asarray(self._function(coalitions), dtype=np.float64)
