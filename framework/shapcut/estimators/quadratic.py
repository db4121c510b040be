"""The quadratic surrogate, a Gaussian process over coalitions."""

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import LinAlgError, cho_factor, cho_solve
from scipy.optimize import minimize

from shapcut.game.coalitions import CoalitionMatrix, Values
from shapcut.game.surrogate import Surrogate

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Scales:
    """Prior variances of `QuadraticSurrogate`, in units of the squared spread of the data.

    Attributes:
        player: a player's effect, around the common effect.
        pair: a pair's interaction, around the common interaction.
        common_player: the effect common to all players.
        common_pair: the interaction common to all pairs.
        noise: the residual of the polynomial at the best coalition.
    """

    player: float
    pair: float
    common_player: float
    common_pair: float
    noise: float


_START = np.log([0.1, 0.01, 0.1, 0.01, 0.01])
_BOUNDS = [(-14.0, 5.0)] * 5
_WITHOUT_PAIRS = [*_BOUNDS[:4], _BOUNDS[4][:1] * 2]
"""Bounds if no coalition lacks two players: noise is fixed, as it could explain every effect."""

_INTERCEPT_VARIANCE = 10.0


@dataclass(frozen=True, slots=True)
class Polynomial:
    """A polynomial of absence indicators: ``linear @ x + 1/2 x @ pairs @ x``, up to a constant.

    Attributes:
        linear: shape (n,).
        pairs: symmetric with a diagonal of 0, shape (n, n).
    """

    linear: FloatArray
    pairs: FloatArray

    def predict(self, coalitions: CoalitionMatrix) -> Values:
        """The value of each row."""
        absent = (~coalitions).astype(np.float64)
        values: Values = absent @ self.linear + 0.5 * ((absent @ self.pairs) * absent).sum(axis=1)
        return values


class QuadraticSurrogate(Surrogate):
    """A Gaussian process whose functions are polynomials of degree two.

    ``f(S) = c + sum_i a_i x_i + sum_{i<j} b_ij x_i x_j`` with ``x = 1`` for an absent player, under a
    Gaussian prior on all coefficients whose scales maximise the evidence (Rasmussen and Williams, *Gaussian
    Processes for Machine Learning*, section 5.4). Few measurements are enough: pairs that are never absent
    together fall back to the mean interaction.

    A bad coalition tells little about good ones, so its deviation from degree two may be larger: the noise
    variance grows as ``exp(2 * damage / focus)``, damage being how far the value lies below the best.

    Args:
        focus: damage at which a measurement counts 1/e of the best one's weight; None takes the median
            damage of the data, infinity weighs all alike.

    Raises:
        ValueError: if ``focus`` is not positive.
    """

    def __init__(self, focus: float | None = None) -> None:
        if focus is not None and not focus > 0.0:
            raise ValueError(f"focus={focus} is not positive")
        self.focus = focus
        self.scales: Scales | None = None

    def fit(
        self, coalitions: CoalitionMatrix, values: Values, scales: Scales | None = None
    ) -> "QuadraticSurrogate":
        """Fit to finite values; pass ``scales`` of an earlier fit to skip their optimisation."""
        self._absent = (~coalitions).astype(np.float64)
        self._best = float(values.max())
        damage = self._best - values
        self._unit = float(damage.std()) or 1.0
        self._residual = -damage / self._unit
        self._noise = self._noise_profile(damage)
        self.scales = scales or self._most_evident_scales()
        covariance = self._kernel(self._absent, self._absent, self.scales)
        covariance[np.diag_indices_from(covariance)] += self.scales.noise * self._noise
        self._factor = _cholesky(covariance)
        self._weights = cho_solve(self._factor, self._residual)
        return self

    def predict(self, coalitions: CoalitionMatrix) -> Values:
        """Posterior mean of the value."""
        absent = (~coalitions).astype(np.float64)
        cross = self._kernel(absent, self._absent, self._fitted_scales)
        values: Values = self._best + self._unit * (cross @ self._weights)
        return values

    def deviation(self, coalitions: CoalitionMatrix) -> FloatArray:
        """Posterior standard deviation of the value, without measurement noise."""
        absent = (~coalitions).astype(np.float64)
        cross = self._kernel(absent, self._absent, self._fitted_scales)
        prior = self._prior_variance(absent.sum(axis=1), self._fitted_scales)
        variance = prior - (cross.T * cho_solve(self._factor, cross.T)).sum(axis=0)
        deviation: FloatArray = self._unit * np.sqrt(np.maximum(variance, 0.0))
        return deviation

    def coefficients(self) -> tuple[FloatArray, FloatArray]:
        """Posterior means of ``a`` (n,) and of the symmetric ``b`` (n, n), whose diagonal is 0."""
        linear, pairs = self._coefficients()
        return self._unit * linear, self._unit * pairs

    def draw(self, rng: np.random.Generator) -> Polynomial:
        """A polynomial drawn from the posterior, for Thompson sampling.

        Corrects a draw from the prior by its residuals at the data (Matheron's rule; Wilson et al.,
        *Pathwise Conditioning of Gaussian Processes*, JMLR 2021).
        """
        scales, n = self._fitted_scales, self._absent.shape[1]
        linear = rng.normal(size=n) * scales.player**0.5 + rng.normal() * scales.common_player**0.5
        pairs = np.triu(rng.normal(size=(n, n)) * scales.pair**0.5, 1)
        pairs = pairs + pairs.T + rng.normal() * scales.common_pair**0.5
        np.fill_diagonal(pairs, 0.0)
        prior = Polynomial(linear, pairs).predict(self._absent == 0.0)
        prior += rng.normal() * _INTERCEPT_VARIANCE**0.5
        noise = rng.normal(size=len(prior)) * np.sqrt(scales.noise * self._noise)
        correction = self._coefficients(cho_solve(self._factor, self._residual - prior - noise))
        return Polynomial(self._unit * (linear + correction[0]), self._unit * (pairs + correction[1]))

    def _coefficients(self, other: FloatArray | None = None) -> tuple[FloatArray, FloatArray]:
        """Coefficients for the fit's kernel weights, or for ``other`` weights."""
        scales, absent = self._fitted_scales, self._absent
        weights = self._weights if other is None else other
        size = absent.sum(axis=1)
        linear = scales.player * (absent.T @ weights) + scales.common_player * (size @ weights)
        pairs = scales.pair * (absent.T * weights) @ absent
        pairs += scales.common_pair * ((size * (size - 1) / 2) @ weights)
        np.fill_diagonal(pairs, 0.0)
        return linear, pairs

    def shapley(self) -> tuple[FloatArray, FloatArray]:
        """Shapley values of ``f`` in closed form and their posterior standard deviations, each (n,).

        ``phi_i = -a_i - 1/2 sum_j b_ij``: each partner is absent half of the time.
        """
        return self.contributions(0.5)

    def contributions(
        self, absence: float, removable: NDArray[np.int64] | None = None
    ) -> tuple[FloatArray, FloatArray]:
        """Mean marginal contributions where each other player is absent with this probability.

        ``-a_i - absence * sum_j b_ij``; 1/2 gives Shapley values, other numbers weighted Banzhaf values
        (the value of joining a coalition of that typical size).

        Args:
            absence: the probability.
            removable: indices of the removable players, the others get NaN; None means all.

        Returns:
            The contributions (n,) and their posterior standard deviations (n,).
        """
        linear, pairs = self.coefficients()
        chosen = np.arange(len(linear)) if removable is None else removable
        means, deviations = np.full((2, len(linear)), np.nan)
        means[chosen] = -linear[chosen] - absence * pairs[np.ix_(chosen, chosen)].sum(axis=1)
        deviations[chosen] = self._contribution_deviations(absence, self._absent[:, chosen])
        return means, deviations

    def _contribution_deviations(self, absence: float, chosen: FloatArray) -> FloatArray:
        """Posterior deviations, shape (k,), of k players with absence indicators (rows, k)."""
        scales, partners = self._fitted_scales, chosen.shape[1] - 1
        size = self._absent.sum(axis=1)
        others = chosen.sum(axis=1) - chosen.T
        common = scales.common_player * size
        common += absence * partners * scales.common_pair * size * (size - 1) / 2
        cross = scales.player * chosen.T + absence * scales.pair * chosen.T * others + common
        prior = (
            scales.player
            + scales.common_player
            + absence**2 * (partners * scales.pair + partners**2 * scales.common_pair)
        )
        variance = prior - (cross.T * cho_solve(self._factor, cross.T)).sum(axis=0)
        deviations: FloatArray = self._unit * np.sqrt(np.maximum(variance, 0.0))
        return deviations

    @property
    def _fitted_scales(self) -> Scales:
        if self.scales is None:
            raise RuntimeError("the surrogate has not been fitted")
        return self.scales

    def _noise_profile(self, damage: FloatArray) -> FloatArray:
        positive = damage[damage > 0]
        focus = self.focus if self.focus is not None else float(np.median(positive)) if len(positive) else 1.0
        profile: FloatArray = np.exp(np.minimum(2.0 * damage / focus, 30.0))
        return profile

    @staticmethod
    def _kernel(left: FloatArray, right: FloatArray, scales: Scales) -> FloatArray:
        """Prior covariance of f between rows of absence indicators."""
        shared = left @ right.T
        size_left, size_right = left.sum(axis=1), right.sum(axis=1)
        pairs_left, pairs_right = size_left * (size_left - 1) / 2, size_right * (size_right - 1) / 2
        kernel: FloatArray = (
            _INTERCEPT_VARIANCE
            + scales.player * shared
            + scales.pair * shared * (shared - 1) / 2
            + scales.common_player * np.outer(size_left, size_right)
            + scales.common_pair * np.outer(pairs_left, pairs_right)
        )
        return kernel

    @staticmethod
    def _prior_variance(size: FloatArray, scales: Scales) -> FloatArray:
        """The diagonal of `_kernel` for coalitions that lack ``size`` players."""
        pairs = size * (size - 1) / 2
        variance: FloatArray = (
            _INTERCEPT_VARIANCE
            + scales.player * size
            + scales.pair * pairs
            + scales.common_player * size**2
            + scales.common_pair * pairs**2
        )
        return variance

    def _most_evident_scales(self) -> Scales:
        result = minimize(
            self._negative_log_evidence,
            _START,
            jac=True,
            method="L-BFGS-B",
            bounds=_BOUNDS if self._absent.sum(axis=1).max() > 1 else _WITHOUT_PAIRS,
            options={"maxiter": 40},
        )
        return Scales(*np.exp(result.x).tolist())

    def _negative_log_evidence(self, logarithms: FloatArray) -> tuple[float, FloatArray]:
        """It and its gradient by the logarithms of the scales (Rasmussen and Williams, equation 5.9)."""
        scales = Scales(*np.exp(logarithms).tolist())
        covariance = self._kernel(self._absent, self._absent, scales)
        covariance[np.diag_indices_from(covariance)] += scales.noise * self._noise
        try:
            factor = _cholesky(covariance)
        except LinAlgError:
            return 1e12, np.zeros_like(logarithms)
        weights = cho_solve(factor, self._residual)
        evidence = 0.5 * float(self._residual @ weights) + float(np.log(np.diagonal(factor[0])).sum())
        slope = cho_solve(factor, np.eye(len(weights))) - np.outer(weights, weights)
        return evidence, 0.5 * np.exp(logarithms) * self._derivatives(slope)

    def _derivatives(self, slope: FloatArray) -> FloatArray:
        """The traces of ``slope`` times the derivative of the covariance by each scale, in their order."""
        shared = self._absent @ self._absent.T
        size = self._absent.sum(axis=1)
        pairs = size * (size - 1) / 2
        by_scale = {
            "player": (slope * shared).sum(),
            "pair": (slope * shared * (shared - 1)).sum() / 2,
            "common_player": size @ slope @ size,
            "common_pair": pairs @ slope @ pairs,
            "noise": np.diagonal(slope) @ self._noise,
        }
        return np.array([by_scale[field.name] for field in fields(Scales)])


def _cholesky(covariance: Any) -> tuple[FloatArray, bool]:
    """The lower Cholesky factor as `cho_solve` takes it."""
    factor: tuple[FloatArray, bool] = cho_factor(covariance, lower=True)
    return factor
