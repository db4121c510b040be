"""What a cooperative game is, apart from any model."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from math import floor
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from shapcut.coalitions import CoalitionMatrix, Player, Values, keys
from shapcut.cost import Cost
from shapcut.errors import BudgetExceededError

if TYPE_CHECKING:
    from shapcut.access import ModelAccess

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


_ROUNDING = 1e-6


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
    def access(self) -> "ModelAccess | None":
        """The model behind the game, for methods that look inside it; None if there is none."""
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
    def access(self) -> "ModelAccess | None":
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


class MeteredGame(WrappedGame):
    """Counts the distinct coalitions that have been asked for and what they, and passes, have cost.

    A value that an evaluation store already had counts too, so a resumed run walks the same way as an
    undisturbed one.

    Args:
        game: the game to ask.
        cost: the account; None opens one.
        whole: the metered game that this one is a narrower form of.
    """

    def __init__(self, game: Game, *, cost: Cost | None = None, whole: "MeteredGame | None" = None) -> None:
        super().__init__(game)
        self.cost = Cost() if cost is None else cost
        self._whole = whole
        self._narrowed: dict[int, MeteredGame] = {}
        self._seen: dict[bytes, list[float]] = {}

    @property
    def spent(self) -> int:
        """Distinct coalitions asked for so far."""
        return len(self._seen)

    @property
    def access(self) -> "ModelAccess | None":
        """The wrapped game's model; passes through it are charged to this account too."""
        access = self.game.access
        return None if access is None else access.charged_to(self.cost)

    def narrowed(self, tokens: int) -> Game:
        """The narrower game on the same account; its coalitions count by their share of the tokens."""
        narrower = self.game.narrowed(tokens)
        if narrower is self.game:
            return self
        return self._narrowed.setdefault(
            narrower.tokens, MeteredGame(narrower, cost=self.cost, whole=self._whole or self)
        )

    def is_known(self, coalitions: CoalitionMatrix) -> list[bool]:
        """For each row, whether it was asked for before (asking again is free)."""
        return [key in self._seen for key in keys(coalitions)]

    def values(self, coalitions: CoalitionMatrix) -> Values:
        """Values of the wrapped game.

        Raises:
            BudgetExceededError: before anything is evaluated, if the new rows exceed the budget.
        """
        return self.measurements(coalitions)[:, 0]

    def measurements(self, coalitions: CoalitionMatrix) -> Measurements:
        """Measurements of the wrapped game.

        Raises:
            BudgetExceededError: as `values`.
        """
        names = keys(coalitions)
        new = {name: row for row, name in enumerate(names) if name not in self._seen}
        if new:
            self.spend(len(new))
            asked = coalitions[list(new.values())]
            self._seen.update(zip(new, self.game.measurements(asked).tolist(), strict=True))
            self.cost.add_evaluations(len(new), int(asked.sum()), self.tokens)
        return np.array([self._seen[name] for name in names], dtype=np.float64).reshape(-1, 3)

    def spend(self, evaluations: float) -> None:
        """Called before so many evaluations are made; a narrower game's are fractions of the whole one's."""
        if self._whole is not None:
            self._whole.spend(evaluations * self.tokens / self._whole.tokens)

    def evaluated(self) -> tuple[CoalitionMatrix, Values]:
        """Everything asked for so far, in order: coalitions and their values."""
        packed = np.frombuffer(b"".join(self._seen), dtype=np.uint8).reshape(-1, -(-self.n_players // 8))
        bits = np.unpackbits(packed, axis=1, count=self.n_players, bitorder="little")
        return bits.astype(np.bool_), np.array([found[0] for found in self._seen.values()], dtype=np.float64)


class BudgetedGame(MeteredGame):
    """A metered game that refuses more than its budget of distinct coalitions.

    Coalitions of its `narrowed` games take fractions of the budget.
    """

    def __init__(self, game: Game, budget: int, *, cost: Cost | None = None) -> None:
        super().__init__(game, cost=cost)
        self.budget = budget
        self._used = 0.0

    @property
    def remaining(self) -> int:
        """Distinct coalitions that may still be asked for."""
        return floor(self.budget - self._used + _ROUNDING)

    def spend(self, evaluations: float) -> None:
        """Take from the budget.

        Raises:
            BudgetExceededError: if there is not enough left.
        """
        left = self.budget - self._used
        if evaluations > left + _ROUNDING:
            raise BudgetExceededError(
                f"{evaluations:g} new coalitions asked for, {left:g} of a budget of {self.budget} are left"
            )
        self._used += evaluations
