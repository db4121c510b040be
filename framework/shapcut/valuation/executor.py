"""Executors: measure coalitions in this process, or in others that build copies of the game."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from typing import ClassVar

import numpy as np

from shapcut.game.coalitions import CoalitionMatrix
from shapcut.game.game import (
    Game,
    Measurements,
    Parts,
    PiecewiseGame,
    WindowedGame,
    WindowMeans,
    WindowPart,
    WrappedGame,
    assembled,
)
from shapcut.valuation.game_spec import GameSpec


class PortableGame(WindowedGame):
    """A game that other processes can build."""

    @abstractmethod
    def spec(self) -> GameSpec:
        """The spec to build it from.

        Raises:
            InputError: if a part of it exists in this process only.
        """

    def leave_device(self) -> None:
        """Free the GPU's memory until the game itself is evaluated or looked into again."""


class DistributedGame(PiecewiseGame, WrappedGame):
    """A game whose values are measured elsewhere.

    Args:
        game: answers everything but values; its narrowed forms are measured here.
        measure: yields the values of coalitions in parts, in any order.
    """

    def __init__(self, game: Game, measure: Callable[[CoalitionMatrix], Parts]) -> None:
        super().__init__(game)
        self._measure = measure

    def narrowed(self, tokens: int) -> Game:
        """The game's own narrowed form."""
        narrower = self.game.narrowed(tokens)
        return self if narrower is self.game else narrower

    def parts(self, coalitions: CoalitionMatrix) -> Parts:
        """Parts of the values as they arrive."""
        return self._measure(coalitions)


MeasureWindows = Callable[[CoalitionMatrix, int, int], Iterator[WindowPart]]
"""Means of all rows on the windows from the first number to before the second; see `WindowedGame`."""


class DistributedWindows(WindowedGame, WrappedGame):
    """A game whose windows are measured elsewhere.

    Args:
        game: answers everything but values.
        measure: yields the means of coalitions on some windows in parts, in any order.
    """

    game: WindowedGame

    def __init__(self, game: WindowedGame, measure: MeasureWindows) -> None:
        super().__init__(game)
        self._measure = measure

    @property
    def windows(self) -> int:
        """The game's own number."""
        return self.game.windows

    def narrowed(self, tokens: int) -> Game:
        """The narrower game, whose windows are measured elsewhere too."""
        narrower = self.game.narrowed(tokens)
        if narrower is self.game or not isinstance(narrower, WindowedGame):
            return self
        return DistributedWindows(narrower, self._measure)

    def window_parts(self, coalitions: CoalitionMatrix, first: int, last: int) -> Iterator[WindowPart]:
        """Parts as they arrive."""
        return self._measure(coalitions, first, last)

    @cached_property
    def _full(self) -> WindowMeans:
        everyone = np.ones((1, self.n_players), dtype=np.bool_)
        return assembled(self._measure(everyone, 0, self.windows), 1, 0, self.windows)

    def combined(self, means: WindowMeans, full: WindowMeans | None = None) -> Measurements:
        """The game's own values; the means with all players are measured elsewhere too."""
        return self.game.combined(means, self._full if full is None else full)


class Executor(ABC):
    """Measures the coalitions of a run.

    The constructor's keyword parameters are the options of ``--executor NAME:key=value``. Values must equal
    those of the games themselves.
    """

    name: ClassVar[str]

    def check(self) -> None:  # noqa: B027 - an executor may have nothing to refuse
        """Called before a model is loaded.

        Raises:
            InputError: if the executor is unusable, with the remedy.
        """

    @abstractmethod
    def distribute(self, games: Sequence[PortableGame]) -> AbstractContextManager[Sequence[Game]]:
        """The same games in the same order, measured by this executor while the context is open.

        Args:
            games: games of one model and one utility on different tokens. They are evaluated in turn, so
                copies may share the model.

        Raises:
            InputError: if a game cannot be built elsewhere.
        """


class LocalExecutor(Executor):
    """This process."""

    name = "local"

    def distribute(self, games: Sequence[PortableGame]) -> AbstractContextManager[Sequence[Game]]:
        """The games themselves."""
        return nullcontext(games)
