"""Regression by the moments of the features, for more measurements than coefficients."""

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_solve, solve_triangular
from scipy.linalg.lapack import dtrtri

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


class Features:
    """The features of coalitions: 1, players, pairs, the number of players, the number of pairs.

    Players that are never absent, and pairs that are never absent together, have no feature: the data say
    nothing about them.

    Args:
        coalitions: the measured coalitions.
    """

    def __init__(self, coalitions: CoalitionMatrix) -> None:
        together = np.zeros((coalitions.shape[1],) * 2)
        for rows in chunks(*coalitions.shape):
            absent = (~coalitions[rows]).astype(np.float64)
            together += absent.T @ absent
        self.players = np.flatnonzero(np.diagonal(together))
        self.first, self.second = np.nonzero(np.triu(together, 1))

    def __len__(self) -> int:
        return 3 + len(self.players) + len(self.first)

    @property
    def groups(self) -> NDArray[np.intp]:
        """The variance of each feature's coefficient, as an index into `variances`."""
        return np.repeat(np.arange(5), [1, len(self.players), len(self.first), 1, 1])

    def of(self, coalitions: CoalitionMatrix) -> FloatArray:
        """Shape (n, n_features); each feature is contiguous in memory."""
        absent = (~coalitions.T).astype(np.float64, order="C")
        size = absent.sum(axis=0)
        features: FloatArray = np.empty((len(self), len(coalitions)))
        features[0] = 1.0
        singles, pairs = self._slices()
        features[singles] = absent[self.players]
        np.multiply(absent[self.first], absent[self.second], out=features[pairs])
        features[-2], features[-1] = size, pairs_among(size)
        return features.T

    def of_contributions(self, absence: float, chosen: NDArray[np.int64]) -> FloatArray:
        """What multiplies each coefficient in the contributions of the chosen players, up to their sign."""
        features: FloatArray = np.zeros((len(chosen), len(self)))
        singles, pairs = self._slices()
        features[:, singles] = chosen[:, None] == self.players
        among = np.isin(self.first, chosen) & np.isin(self.second, chosen)
        either = (chosen[:, None] == self.first) | (chosen[:, None] == self.second)
        features[:, pairs] = absence * (either & among)
        features[:, -2], features[:, -1] = 1.0, absence * (len(chosen) - 1)
        return features

    def polynomial(self, coefficients: FloatArray, other: Polynomial) -> Polynomial:
        """The polynomial with these coefficients; players and pairs without a feature are as in ``other``."""
        singles, both = self._slices()
        linear, pairs = other.linear.copy(), other.pairs.copy()
        linear[self.players] = coefficients[singles]
        pairs[self.first, self.second] = pairs[self.second, self.first] = coefficients[both]
        linear, pairs = linear + coefficients[-2], pairs + coefficients[-1]
        np.fill_diagonal(pairs, 0.0)
        return Polynomial(float(coefficients[0]), linear, pairs)

    def _slices(self) -> tuple[slice, slice]:
        begin = 1 + len(self.players)
        return slice(1, begin), slice(begin, begin + len(self.first))


class FeatureSpace(Regression):
    """Linear regression on p features: matrices of shape (p, p), whatever the number of measurements."""

    def __init__(self, measured: Measured, features: Features) -> None:
        self.features = features
        self.has_pairs = measured.has_pairs
        self.n_players = measured.coalitions.shape[1]
        self.count = len(measured.values)
        self.gram: FloatArray = np.zeros((len(features), len(features)))
        self.moment: FloatArray = np.zeros(len(features))
        self._groups = features.groups
        root = 1.0 / np.sqrt(measured.profile)
        for rows in chunks(self.count, len(features)):
            weighted = features.of(measured.coalitions[rows])
            weighted *= root[rows, None]
            self.gram += weighted.T @ weighted
            self.moment += weighted.T @ (root[rows] * measured.values[rows])
        self._square = float(((root * measured.values) ** 2).sum())
        self._constant = 0.5 * float(np.log(measured.profile).sum())

    def deviations(self, scales: Scales) -> FloatArray:
        """The prior standard deviation of each coefficient."""
        variances = [
            INTERCEPT_VARIANCE,
            scales.player,
            scales.pair,
            scales.common_player,
            scales.common_pair,
        ]
        return np.sqrt(variances)[self._groups]

    def factor(self, scales: Scales) -> FloatArray:
        """The lower Cholesky factor of the posterior precision of coefficients over their deviations."""
        deviations = self.deviations(scales)
        precision = self.gram * (deviations / scales.noise)
        precision *= deviations[:, None]
        precision[np.diag_indices_from(precision)] += 1.0
        return cholesky(precision)

    def evidence(self, scales: Scales) -> tuple[float, FloatArray]:
        """See `Regression.evidence`."""
        factor = self.factor(scales)
        moment = self.deviations(scales) * self.moment / scales.noise
        mean = cho_solve((factor, True), moment)
        misfit = self._square / scales.noise - float(moment @ mean)
        evidence = 0.5 * (misfit + self.count * np.log(scales.noise)) + self._constant
        evidence += float(np.log(np.diagonal(factor)).sum())
        inverse, _ = dtrtri(factor, lower=1, overwrite_c=1)
        learned = 1.0 - np.einsum("ij,ij->j", inverse, inverse)
        by_group = np.bincount(self._groups, learned - mean**2, minlength=5)[1:]
        by_noise = self.count - learned.sum() - (misfit - float(mean @ mean))
        return evidence, 0.5 * np.append(by_group, by_noise)

    def condition(self, scales: Scales) -> "FeaturePosterior":
        """See `Regression.condition`."""
        return FeaturePosterior(self, scales)


class FeaturePosterior(Posterior):
    """The posterior of the coefficients, in units of their prior deviations."""

    def __init__(self, space: FeatureSpace, scales: Scales) -> None:
        self.features, self.scales = space.features, scales
        self._n_players = space.n_players
        self._deviations = space.deviations(scales)
        self.factor = space.factor(scales)
        self._mean = cho_solve((self.factor, True), self._deviations * space.moment / scales.noise)

    def mean(self) -> Polynomial:
        """See `Posterior.mean`."""
        nothing = Polynomial(0.0, np.zeros(self._n_players), np.zeros((self._n_players,) * 2))
        return self.features.polynomial(self._deviations * self._mean, nothing)

    def draw(self, rng: np.random.Generator) -> Polynomial:
        """Draw coefficients with a feature from the posterior, the others from the prior."""
        alone = Scales(self.scales.player, self.scales.pair, 0.0, 0.0, 0.0)
        others = draw_prior(alone, self._n_players, rng)
        spread = solve_triangular(self.factor, rng.normal(size=len(self._mean)), lower=True, trans="T")
        return self.features.polynomial(self._deviations * (self._mean + spread), others)

    def variance(self, coalitions: CoalitionMatrix) -> FloatArray:
        """See `Posterior.variance`."""
        variance = self.scales.variance((~coalitions).sum(axis=1).astype(np.float64))
        for rows in chunks(len(coalitions), len(self._mean)):
            variance[rows] -= self._explained(self.features.of(coalitions[rows]))
        return np.maximum(variance, 0.0)

    def contribution_variance(self, absence: float, chosen: NDArray[np.int64]) -> FloatArray:
        """See `Posterior.contribution_variance`."""
        prior = self.scales.contribution_variance(absence, len(chosen) - 1)
        return np.maximum(prior - self._explained(self.features.of_contributions(absence, chosen)), 0.0)

    def _explained(self, features: FloatArray) -> FloatArray:
        """The part of the prior variance that the data remove."""
        features *= self._deviations
        half = solve_triangular(self.factor, features.T, lower=True)
        explained: FloatArray = np.einsum("kp,kp->k", features, features)
        explained -= np.einsum("pk,pk->k", half, half)
        return explained
