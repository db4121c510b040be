"""Bayesian regression of a polynomial on measurements; see `DataSpace` and `FeatureSpace`."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg.lapack import dpotrf

from shapcut.estimators.polynomial import FloatArray, Polynomial, Scales
from shapcut.game.coalitions import CoalitionMatrix


@dataclass(frozen=True, slots=True)
class Measured:
    """What a polynomial is fitted to.

    Attributes:
        coalitions: shape (n, n_players).
        values: in units of their spread, shape (n,).
        profile: noise variance of each value over that of the best one, shape (n,).
    """

    coalitions: CoalitionMatrix
    values: FloatArray
    profile: FloatArray

    @property
    def absent(self) -> FloatArray:
        """Absence indicators, shape (n, n_players)."""
        return (~self.coalitions).astype(np.float64)

    @property
    def has_pairs(self) -> bool:
        """Whether a coalition lacks two players."""
        return bool(((~self.coalitions).sum(axis=1) > 1).any())

    def every(self, step: int) -> "Measured":
        """Every ``step``-th measurement."""
        return Measured(self.coalitions[::step], self.values[::step], self.profile[::step])


class NotPositiveDefiniteError(ArithmeticError):
    """Rounding has made a covariance indefinite."""


class Regression(ABC):
    """The posterior of a polynomial's coefficients, for any scales of the prior.

    Subclasses do the same algebra on matrices of different sizes.

    Attributes:
        has_pairs: whether a measured coalition lacks two players.
    """

    has_pairs: bool

    @abstractmethod
    def evidence(self, scales: Scales) -> tuple[float, FloatArray]:
        """The negative log evidence, up to a constant, and its gradient by the logarithms of the scales.

        Rasmussen and Williams, *Gaussian Processes for Machine Learning*, equations 5.8 and 5.9.

        Raises:
            NotPositiveDefiniteError: if the scales are too extreme for floating point.
        """

    @abstractmethod
    def condition(self, scales: Scales) -> "Posterior":
        """The posterior under these scales.

        Raises:
            NotPositiveDefiniteError: as for `evidence`.
        """


class Posterior(ABC):
    """A posterior over polynomials."""

    @abstractmethod
    def mean(self) -> Polynomial:
        """The posterior mean."""

    @abstractmethod
    def draw(self, rng: np.random.Generator) -> Polynomial:
        """A polynomial drawn from the posterior."""

    @abstractmethod
    def variance(self, coalitions: CoalitionMatrix) -> FloatArray:
        """Posterior variance of the value of each row, without noise."""

    @abstractmethod
    def contribution_variance(self, absence: float, chosen: NDArray[np.int64]) -> FloatArray:
        """Posterior variance of the contribution of each of k players among themselves, shape (k,).

        ``absence`` is the probability that another one of them is absent.
        """


def cholesky(matrix: FloatArray) -> FloatArray:
    """The lower Cholesky factor; overwrites ``matrix``.

    Raises:
        NotPositiveDefiniteError: if there is none.
    """
    factor, failed = dpotrf(matrix.T, lower=1, clean=1, overwrite_a=1)
    if failed:
        raise NotPositiveDefiniteError
    lower: FloatArray = factor
    return lower
