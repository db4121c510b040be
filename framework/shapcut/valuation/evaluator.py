"""The interface of an evaluator of coalitions."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shapcut.game.coalitions import CoalitionMatrix
from shapcut.game.game import Measurements, WindowMeans, WindowPart, assembled, over_text


@dataclass(slots=True)
class Work:
    """The cost of evaluation so far.

    Attributes:
        windows: windows of the calibration text.
        window_runs: runs of one block over one window.
        window_coalitions: coalitions measured on one window.
    """

    windows: int = 1
    window_runs: int = 0
    window_coalitions: int = 0

    @property
    def block_runs(self) -> float:
        """Runs of one block over the whole text; runs over a part count as that part."""
        return self.window_runs / self.windows

    @property
    def coalitions(self) -> float:
        """Coalitions measured; on a part of the text they count as that part."""
        return self.window_coalitions / self.windows


class Evaluator(ABC):
    """Measures coalitions of one model on one calibration batch."""

    work: Work

    @property
    @abstractmethod
    def full(self) -> NDArray[np.float64]:
        """The full model's mean over the tokens of each window, shape (n_windows,)."""

    @abstractmethod
    def parts(self, coalitions: CoalitionMatrix, first: int, last: int) -> Iterator[WindowPart]:
        """Means over tokens for each row and each window from ``first`` to before ``last``.

        Yields:
            The rows in parts of any size and order, each for a few windows; a part is worth keeping.
        """

    def window_means(self, coalitions: CoalitionMatrix) -> WindowMeans:
        """The measure's mean over the tokens of each window for each row; may be non-finite."""
        windows = len(self.full)
        return assembled(self.parts(coalitions, 0, windows), len(coalitions), 0, windows)

    def measurements(self, coalitions: CoalitionMatrix) -> Measurements:
        """The measure's means over all tokens and two halves of them for each row; may be non-finite."""
        return over_text(self.window_means(coalitions))

    @property
    def full_mean(self) -> float:
        """The measure's mean over tokens with all players."""
        return float(self.full.mean())

    def means(self, coalitions: CoalitionMatrix) -> NDArray[np.float64]:
        """The measure's mean over tokens for each row, shape (n_coalitions,); may be non-finite."""
        return self.measurements(coalitions)[:, 0]
