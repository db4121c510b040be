"""The interface of a surrogate of the value."""

from abc import ABC, abstractmethod
from typing import Protocol

from shapcut.game.coalitions import CoalitionMatrix, Values


class Predictor(Protocol):
    """Something that says what coalitions are worth."""

    def predict(self, coalitions: CoalitionMatrix) -> Values:
        """The value of each row."""


class Surrogate(ABC):
    """A model of a game's value."""

    @abstractmethod
    def fit(self, coalitions: CoalitionMatrix, values: Values) -> "Surrogate":
        """Fit to finite values; returns itself."""

    @abstractmethod
    def predict(self, coalitions: CoalitionMatrix) -> Values:
        """The surrogate's value of each row."""
