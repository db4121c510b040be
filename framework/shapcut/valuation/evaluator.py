"""The interface of an evaluator of coalitions."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shapcut.game.coalitions import CoalitionMatrix
from shapcut.game.game import Measurements


@dataclass(slots=True)
class Work:
    """The cost of evaluation so far: block runs over the whole calibration batch, and coalitions."""

    block_runs: int = 0
    coalitions: int = 0


class Evaluator(ABC):
    """Measures coalitions of one model on one calibration batch."""

    work: Work
    full: NDArray[np.float64]
    """The full model's means over all tokens and over two halves of them, shape (3,)."""

    @abstractmethod
    def measurements(self, coalitions: CoalitionMatrix) -> Measurements:
        """The measure's means over all tokens and two halves of them for each row; may be non-finite."""

    @property
    def full_mean(self) -> float:
        """The measure's mean over tokens with all players."""
        return float(self.full[0])

    def means(self, coalitions: CoalitionMatrix) -> NDArray[np.float64]:
        """The measure's mean over tokens for each row, shape (n_coalitions,); may be non-finite."""
        return self.measurements(coalitions)[:, 0]
