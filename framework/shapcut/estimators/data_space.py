"""Regression by the covariance of the measurements, for fewer measurements than coefficients."""

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_solve, solve_triangular
from scipy.linalg.lapack import dpotri

from shapcut.estimators.polynomial import (
    INTERCEPT_VARIANCE,
    FloatArray,
    Polynomial,
    Scales,
    chunks,
    draw_prior,
    pairs_among,
)
from shapcut.estimators.regression import Measured, Posterior, Regression, cholesky
from shapcut.game.coalitions import CoalitionMatrix


class DataSpace(Regression):
    """A Gaussian process on n measurements: matrices of shape (n, n), whatever the number of players."""

    def __init__(self, measured: Measured) -> None:
        self.measured = measured
        self.has_pairs = measured.has_pairs
        self.absent = measured.absent
        self.common = common_features(self.absent)
        self._shared = self.absent @ self.absent.T
        self._shared_pairs = self._shared * (self._shared - 1)
        self._shared_pairs *= 0.5

    def evidence(self, scales: Scales) -> tuple[float, FloatArray]:
        """See `Regression.evidence`."""
        factor = self.factor(scales)
        weights = cho_solve((factor, True), self.measured.values)
        evidence = 0.5 * float(self.measured.values @ weights) + float(np.log(np.diagonal(factor)).sum())
        whitened = solve_triangular(factor, self.common[:, 1:], lower=True)
        precision, _ = dpotri(factor, lower=1, overwrite_c=1)  # the upper triangle stays 0
        diagonal = np.diagonal(precision).copy()
        traces = [
            2.0 * np.vdot(precision.T, shared) - diagonal @ np.diagonal(shared) - weights @ shared @ weights
            for shared in (self._shared, self._shared_pairs)
        ]
        traces += ((whitened**2).sum(axis=0) - (weights @ self.common[:, 1:]) ** 2).tolist()
        traces.append((diagonal - weights**2) @ self.measured.profile)
        variances = [scales.player, scales.pair, scales.common_player, scales.common_pair, scales.noise]
        return evidence, 0.5 * np.array(variances) * np.array(traces)

    def condition(self, scales: Scales) -> "DataPosterior":
        """See `Regression.condition`."""
        return DataPosterior(self, scales)

    def factor(self, scales: Scales) -> FloatArray:
        """The lower Cholesky factor of the covariance of the measurements."""
        covariance = scales.pair * self._shared_pairs
        for rows in chunks(*covariance.shape):
            covariance[rows] += scales.player * self._shared[rows]
            covariance[rows] += (self.common[rows] * common_variances(scales)) @ self.common.T
        covariance[np.diag_indices_from(covariance)] += scales.noise * self.measured.profile
        return cholesky(covariance)


class DataPosterior(Posterior):
    """The posterior as weights on the measurements."""

    def __init__(self, space: DataSpace, scales: Scales) -> None:
        self.measured, self.absent, self.common = space.measured, space.absent, space.common
        self.scales = scales
        self.factor = space.factor(scales)

    def mean(self) -> Polynomial:
        """See `Posterior.mean`."""
        return self._explaining(self.measured.values)

    def draw(self, rng: np.random.Generator) -> Polynomial:
        """Correct a draw from the prior by its residuals at the data: Matheron's rule.

        Wilson et al., *Pathwise Conditioning of Gaussian Processes*, JMLR 2021.
        """
        drawn = draw_prior(self.scales, self.absent.shape[1], rng)
        noise = rng.normal(size=len(self.absent)) * np.sqrt(self.scales.noise * self.measured.profile)
        rest = self._explaining(self.measured.values - drawn.predict(self.measured.coalitions) - noise)
        return Polynomial(
            drawn.constant + rest.constant, drawn.linear + rest.linear, drawn.pairs + rest.pairs
        )

    def variance(self, coalitions: CoalitionMatrix) -> FloatArray:
        """See `Posterior.variance`."""
        variance = self.scales.variance((~coalitions).sum(axis=1).astype(np.float64))
        for rows in chunks(len(coalitions), len(self.absent)):
            variance[rows] -= self._explained(self.covariance((~coalitions[rows]).astype(np.float64)))
        return np.maximum(variance, 0.0)

    def contribution_variance(self, absence: float, chosen: NDArray[np.int64]) -> FloatArray:
        """See `Posterior.contribution_variance`."""
        scales, absent, partners = self.scales, self.absent[:, chosen], len(chosen) - 1
        others = absent.sum(axis=1) - absent.T
        covariance = scales.player * absent.T + absence * scales.pair * absent.T * others
        covariance += scales.common_player * self.common[:, 1]
        covariance += absence * partners * scales.common_pair * self.common[:, 2]
        prior = scales.contribution_variance(absence, partners)
        return np.maximum(prior - self._explained(covariance), 0.0)

    def covariance(self, absent: FloatArray) -> FloatArray:
        """Prior covariance between the values of rows of absence indicators and the measurements."""
        shared = absent @ self.absent.T
        covariance: FloatArray = (common_features(absent) * common_variances(self.scales)) @ self.common.T
        covariance += (self.scales.player - 0.5 * self.scales.pair) * shared
        covariance += 0.5 * self.scales.pair * np.square(shared, out=shared)
        return covariance

    def _explained(self, covariance: FloatArray) -> FloatArray:
        """The part of the prior variance that the data remove, from covariances of shape (k, n)."""
        half = solve_triangular(self.factor, covariance.T, lower=True, overwrite_b=True)
        explained: FloatArray = np.einsum("nk,nk->k", half, half)
        return explained

    def _explaining(self, values: FloatArray) -> Polynomial:
        """The posterior mean if these had been the values."""
        scales, weights = self.scales, cho_solve((self.factor, True), values)
        constant, linear, pairs = common_variances(scales) * (weights @ self.common)
        linear = linear + scales.player * (weights @ self.absent)
        half = 0.5 * scales.pair * (self.absent.T * weights) @ self.absent
        pairs = pairs + (half + half.T)  # rounding alone would leave it asymmetric
        np.fill_diagonal(pairs, 0.0)
        return Polynomial(float(constant), linear, pairs)


def common_features(absent: FloatArray) -> FloatArray:
    """1, the number of absent players and that of absent pairs, shape (n, 3)."""
    size = absent.sum(axis=1)
    return np.column_stack([np.ones(len(absent)), size, pairs_among(size)])


def common_variances(scales: Scales) -> FloatArray:
    """The prior variances of the coefficients of `common_features`."""
    return np.array([INTERCEPT_VARIANCE, scales.common_player, scales.common_pair])
