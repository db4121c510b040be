"""Where coalitions are measured: in this process, or by copies of the game that others build."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import ClassVar

from shapcut.game.coalitions import CoalitionMatrix
from shapcut.game.game import Game, Parts, PiecewiseGame, WrappedGame
from shapcut.valuation.game_spec import GameSpec


class PortableGame(Game):
    """A game that other processes can build too."""

    @abstractmethod
    def spec(self) -> GameSpec:
        """How they build it.

        Raises:
            InputError: if they cannot, because something of it exists in this process only.
        """


class DistributedGame(WrappedGame, PiecewiseGame):
    """The players of a game, whose values somebody else measures.

    Args:
        game: the game; it is asked for everything but values, and its narrower forms are measured here.
        measure: tells the values of coalitions in parts, in any order.
    """

    def __init__(self, game: Game, measure: Callable[[CoalitionMatrix], Parts]) -> None:
        super().__init__(game)
        self._measure = measure

    def narrowed(self, tokens: int) -> Game:
        """The game's own narrower form."""
        narrower = self.game.narrowed(tokens)
        return self if narrower is self.game else narrower

    def parts(self, coalitions: CoalitionMatrix) -> Parts:
        """What is measured elsewhere, as it arrives."""
        return self._measure(coalitions)


class Executor(ABC):
    """A place where the coalitions of a run are measured.

    Its constructor's keyword parameters are the options of ``--executor NAME:key=value``. The values must be
    those that the games themselves would give.
    """

    name: ClassVar[str]

    def check(self) -> None:  # noqa: B027 - an executor may have nothing to refuse
        """Called before a model is loaded.

        Raises:
            InputError: if the place cannot be used, with what to do about it.
        """

    @abstractmethod
    def distribute(self, games: Sequence[PortableGame]) -> AbstractContextManager[Sequence[Game]]:
        """The same games in the same order, measured there while the context is open.

        Args:
            games: games of one model and one utility on different tokens. They are asked in turn, so their
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
