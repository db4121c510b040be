"""The quadratic surrogate, a Gaussian process over coalitions."""

from dataclasses import astuple
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from shapcut.estimators.data_space import DataSpace
from shapcut.estimators.feature_space import Features, FeatureSpace
from shapcut.estimators.polynomial import FloatArray, Polynomial, Scales
from shapcut.estimators.regression import Measured, NotPositiveDefiniteError, Posterior, Regression
from shapcut.game.coalitions import CoalitionMatrix, Values
from shapcut.game.surrogate import Surrogate

_START = np.log([0.1, 0.01, 0.1, 0.01, 0.01])
_BOUNDS = [(-14.0, 5.0)] * 5
_WITHOUT_PAIRS = [*_BOUNDS[:4], _BOUNDS[4][:1] * 2]
"""Bounds if no coalition lacks two players: noise is fixed, as it could explain every effect."""
_TOLERANCE, _WARM_TOLERANCE = 2.2e-9, 1e-7
"""Relative change of the evidence at which the search stops; a warm start need not go as far."""
_FEW = 256
"""Measurements on which the search for the most evident scales costs little."""
_DRAWS = 128
"""Draws from the posterior from which standard deviations of interactions are estimated."""
_IMPOSSIBLE = 1e12
"""The negative log evidence of scales that floating point cannot represent."""


class QuadraticSurrogate(Surrogate):
    """A Gaussian process whose functions are polynomials of degree two.

    ``f(S) = c + sum_i a_i x_i + sum_{i<j} b_ij x_i x_j`` with ``x = 1`` for an absent player, under a
    Gaussian prior on all coefficients whose scales maximise the evidence (Rasmussen and Williams, *Gaussian
    Processes for Machine Learning*, section 5.4). Few measurements are enough: pairs that are never absent
    together fall back to the mean interaction.

    A bad coalition tells little about good ones, so its deviation from degree two may be larger: the noise
    variance grows as ``exp(2 * damage / focus)``, damage being how far the value lies below the best.

    Matrices are those of n measurements or of p features, whichever are smaller: a fit takes O(n^3) or
    O(n p^2 + p^3) operations, with p of at most ``(players + 1) * (players + 2) / 2 + 2``.

    Args:
        focus: damage at which a measurement counts 1/e of the best one's weight; None takes the median
            damage of the data, infinity weighs all alike.
        start: scales of a similar fit, from which the search for the most evident ones starts.

    Raises:
        ValueError: if ``focus`` is not positive.
    """

    def __init__(self, focus: float | None = None, start: Scales | None = None) -> None:
        if focus is not None and not focus > 0.0:
            raise ValueError(f"focus={focus} is not positive")
        self.focus = focus
        self.start = start
        self.scales: Scales | None = None

    def fit(
        self, coalitions: CoalitionMatrix, values: Values, scales: Scales | None = None
    ) -> "QuadraticSurrogate":
        """Fit to finite values; pass ``scales`` of an earlier fit to skip their optimisation."""
        self._best = float(values.max())
        damage = self._best - values
        self._unit = float(damage.std()) or 1.0
        measured = Measured(coalitions, -damage / self._unit, self._noise_profile(damage))
        regression = _smaller_space(measured)
        self.scales = scales or self._most_evident_scales(measured, regression)
        self._posterior = regression.condition(self.scales)
        self._mean = self._posterior.mean().scaled(self._unit, self._best)
        return self

    def predict(self, coalitions: CoalitionMatrix) -> Values:
        """Posterior mean of the value."""
        return self.polynomial.predict(coalitions)

    def deviation(self, coalitions: CoalitionMatrix) -> FloatArray:
        """Posterior standard deviation of the value, without measurement noise."""
        deviation: FloatArray = self._unit * np.sqrt(self._fitted.variance(coalitions))
        return deviation

    @property
    def polynomial(self) -> Polynomial:
        """The posterior mean."""
        if self.scales is None:
            raise RuntimeError("the surrogate has not been fitted")
        return self._mean

    def coefficients(self) -> tuple[FloatArray, FloatArray]:
        """Posterior means of ``a`` (n,) and of the symmetric ``b`` (n, n), whose diagonal is 0."""
        return self.polynomial.linear, self.polynomial.pairs

    def draw(self, rng: np.random.Generator) -> Polynomial:
        """A polynomial drawn from the posterior, for Thompson sampling."""
        return self._fitted.draw(rng).scaled(self._unit, self._best)

    def shapley(self) -> tuple[FloatArray, FloatArray]:
        """Shapley values of ``f`` in closed form and their posterior standard deviations, each (n,).

        ``phi_i = -a_i - 1/2 sum_j b_ij``: each partner is absent half of the time.
        """
        return self.contributions(0.5)

    def contributions(
        self, absence: float, removable: NDArray[np.int64] | None = None
    ) -> tuple[FloatArray, FloatArray]:
        """Mean marginal contributions and their posterior standard deviations, each (n,).

        See `mean_contributions` for the arguments.
        """
        means = self.mean_contributions(absence, removable)
        chosen = np.arange(len(means)) if removable is None else removable
        deviations = np.full(len(means), np.nan)
        deviations[chosen] = self._unit * np.sqrt(self._fitted.contribution_variance(absence, chosen))
        return means, deviations

    def mean_contributions(self, absence: float, removable: NDArray[np.int64] | None = None) -> FloatArray:
        """Mean marginal contributions where each other player is absent with this probability, shape (n,).

        ``-a_i - absence * sum_j b_ij``; 1/2 gives Shapley values, other numbers weighted Banzhaf values
        (the value of joining a coalition of that typical size).

        Args:
            absence: the probability.
            removable: indices of the removable players, the others get NaN; None means all.
        """
        linear, pairs = self.coefficients()
        chosen = np.arange(len(linear)) if removable is None else removable
        means = np.full(len(linear), np.nan)
        means[chosen] = -linear[chosen] - absence * pairs[np.ix_(chosen, chosen)].sum(axis=1)
        return means

    def interaction_errors(self, chosen: NDArray[np.int64], rng: np.random.Generator) -> FloatArray:
        """Posterior standard deviation of each interaction's distance from the mean of all pairs.

        Estimated from draws; a pair is compared with the others of the chosen players.

        Args:
            chosen: indices of the players; pairs with another player get NaN.
            rng: source of the draws.

        Returns:
            Shape (n_players, n_players), with NaN on the diagonal.
        """
        squares = np.zeros((len(chosen),) * 2)
        above = np.triu_indices(len(chosen), 1)
        centre = _from_mean(self.coefficients()[1][np.ix_(chosen, chosen)], above)
        for _ in range(_DRAWS):
            drawn = self.draw(rng).pairs[np.ix_(chosen, chosen)]
            squares += (_from_mean(drawn, above) - centre) ** 2
        np.fill_diagonal(squares, np.nan)
        errors: FloatArray = np.full((len(self.coefficients()[0]),) * 2, np.nan)
        errors[np.ix_(chosen, chosen)] = np.sqrt(squares / _DRAWS)
        return errors

    @property
    def _fitted(self) -> Posterior:
        if self.scales is None:
            raise RuntimeError("the surrogate has not been fitted")
        return self._posterior

    def _noise_profile(self, damage: FloatArray) -> FloatArray:
        positive = damage[damage > 0]
        focus = self.focus if self.focus is not None else float(np.median(positive)) if len(positive) else 1.0
        profile: FloatArray = np.exp(np.minimum(2.0 * damage / focus, 30.0))
        return profile

    def _most_evident_scales(self, measured: Measured, regression: Regression) -> Scales:
        if near := self.start or self._scales_of_half(measured, regression):
            # a scale far below the noise has no slope to come back by
            start = np.maximum(np.log(astuple(near)), np.log(near.noise))
            found, evidence = _climb_evidence(regression, start, _WARM_TOLERANCE)
            if evidence < _IMPOSSIBLE:
                return found
        return _climb_evidence(regression, _START, _TOLERANCE)[0]

    def _scales_of_half(self, measured: Measured, regression: Regression) -> Scales | None:
        """The scales most evident from every second measurement, where these cost much less; else None."""
        half = measured.every(2)
        if not isinstance(regression, DataSpace) or len(half.values) < _FEW or not half.has_pairs:
            return None
        return self._most_evident_scales(half, _smaller_space(half))


def _from_mean(pairs: FloatArray, above: tuple[NDArray[np.intp], ...]) -> FloatArray:
    """Interactions minus the mean of all pairs, whose indices are ``above`` the diagonal."""
    return pairs - pairs[above].mean() if len(above[0]) else pairs


def _climb_evidence(regression: Regression, start: Any, tolerance: float) -> tuple[Scales, float]:
    """The most evident scales near the logarithms ``start``, and their negative log evidence."""

    def objective(logarithms: FloatArray) -> tuple[float, FloatArray]:
        return negative_log_evidence(regression, logarithms)

    found = minimize(
        objective,
        start,
        jac=True,
        method="L-BFGS-B",
        bounds=_BOUNDS if regression.has_pairs else _WITHOUT_PAIRS,
        options={"maxiter": 40, "ftol": tolerance},
    )
    return Scales(*np.exp(found.x).tolist()), float(found.fun)


def _smaller_space(measured: Measured) -> Regression:
    """The regression on the smaller matrices."""
    features = Features(measured.coalitions)
    if len(features) < len(measured.values):
        return FeatureSpace(measured, features)
    return DataSpace(measured)


def negative_log_evidence(regression: Regression, logarithms: FloatArray) -> tuple[float, FloatArray]:
    """It and its gradient by the logarithms of the scales."""
    try:
        return regression.evidence(Scales(*np.exp(logarithms).tolist()))
    except NotPositiveDefiniteError:
        return _IMPOSSIBLE, np.zeros_like(logarithms)
