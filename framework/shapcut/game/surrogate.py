"""The interface of a surrogate."""

from abc import ABC, abstractmethod

from shapcut.game.coalitions import CoalitionMatrix, Values


class Surrogate(ABC):
    """A model of a game's value."""

    @abstractmethod
    def fit(self, coalitions: CoalitionMatrix, values: Values) -> "Surrogate":
        """Fit to finite values and return self."""

    @abstractmethod
    def predict(self, coalitions: CoalitionMatrix) -> Values:
        """The predicted value of each row."""
