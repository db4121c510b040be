"""A surrogate for thousands of players: one effect for each, without pairs."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shapcut.estimators.polynomial import FloatArray
from shapcut.game.coalitions import CoalitionMatrix, Values
from shapcut.game.surrogate import Surrogate

MOST_PLAYERS_WITH_PAIRS = 512
"""With more players a quadratic surrogate has too many pairs to fit and to search."""

_RATIOS = np.logspace(-4, 4, 49)
_NEGLIGIBLE = 1e-9


@dataclass(frozen=True, eq=False, slots=True)
class Effects:
    """A linear function of absence: ``constant + linear @ x`` with ``x = 1`` for an absent player.

    Attributes:
        constant: the value of the whole.
        linear: shape (n_players,).
    """

    constant: float
    linear: FloatArray

    def predict(self, coalitions: CoalitionMatrix) -> Values:
        """The value of each row."""
        values: Values = self.constant + (~coalitions) @ self.linear
        return values


class MainEffects(Surrogate):
    """Ridge regression of the value on absence: ``f(S) = c + sum_i a_i x_i``.

    The effects ``a_i`` are independent normal around a common mean, plus a multiple of first evidence if
    there is any; both are fitted without a penalty. The ratio of the noise variance to that of the effects is
    the one of greatest restricted likelihood (Patterson and Thompson, Biometrika 1971), so that few
    coalitions shrink the effects to that mean. Interactions are noise here: with fewer coalitions than
    players they cannot be told apart. Takes O(n^3 + n^2 p) operations for n coalitions of p players.

    Args:
        evidence: optional score of each player, shape (n_players,). A lower score means less harm if the
            player is absent; unknown scores are not finite.
    """

    def __init__(self, evidence: FloatArray | None = None) -> None:
        self.evidence = evidence

    def fit(self, coalitions: CoalitionMatrix, values: Values) -> "MainEffects":
        """Fit to finite values."""
        self._absent = (~coalitions).astype(np.float64)
        self._directions = _directions(coalitions.shape[1], self.evidence)
        fixed = _independent(np.column_stack([np.ones(len(values)), self._absent @ self._directions.T]))
        self._shared = self._absent @ self._absent.T
        rest = _complement(fixed)
        spectrum, axes = np.linalg.eigh(rest.T @ self._shared @ rest)
        self._spectrum, self._axes = np.maximum(spectrum, 0.0), rest @ axes
        self._ratio, self._variance = self._most_likely(self._axes.T @ values)
        self._mean = self._conditioned(values)
        return self

    def predict(self, coalitions: CoalitionMatrix) -> Values:
        """The fitted value of each row."""
        return self.effects.predict(coalitions)

    @property
    def effects(self) -> Effects:
        """The fitted function."""
        return self._mean

    def contributions(self) -> FloatArray:
        """What each player's presence adds, shape (n_players,)."""
        return -self.effects.linear

    def standard_errors(self) -> FloatArray:
        """Posterior standard deviation of each player's effect around the common mean, shape (n_players,)."""
        half = (self._axes.T @ self._absent) ** 2
        explained = (half / (self._spectrum + self._ratio)[:, None]).sum(axis=0)
        errors: FloatArray = np.sqrt(self._variance * np.maximum(1.0 - explained, 0.0))
        return errors

    def draw(self, rng: np.random.Generator) -> Effects:
        """Effects drawn from the posterior: a draw from the prior, corrected by its residuals at the data."""
        drawn = rng.normal(size=self._absent.shape[1]) * self._variance**0.5
        noise = rng.normal(size=len(self._absent)) * (self._ratio * self._variance) ** 0.5
        rest = self._conditioned(-(self._absent @ drawn) - noise)
        return Effects(self._mean.constant + rest.constant, self._mean.linear + drawn + rest.linear)

    def _most_likely(self, projected: FloatArray) -> tuple[float, float]:
        """The ratio of variances of greatest restricted likelihood, and the variance of the effects."""
        if not len(projected) or not np.any(np.abs(projected) > _NEGLIGIBLE):
            return 1.0, 0.0
        unit = max(float(self._spectrum.mean()), _NEGLIGIBLE)
        found = []
        for ratio in _RATIOS * unit:
            total = self._spectrum + ratio
            variance = float((projected**2 / total).mean())
            misfit = len(projected) * np.log(variance) + float(np.log(total).sum())
            found.append((misfit, float(ratio), variance))
        _, ratio, variance = min(found)
        return ratio, variance

    def _conditioned(self, values: Values) -> Effects:
        """The function that explains values under the fitted ratio."""
        weights = self._axes @ ((self._axes.T @ values) / (self._spectrum + self._ratio))
        linear = self._absent.T @ weights
        left = values - self._shared @ weights - self._ratio * weights
        design = np.column_stack([np.ones(len(values)), self._absent @ self._directions.T])
        constant, *slopes = np.linalg.lstsq(design, left, rcond=_NEGLIGIBLE)[0]
        return Effects(float(constant), linear + np.array(slopes) @ self._directions)


def _directions(n_players: int, evidence: FloatArray | None) -> FloatArray:
    """What is fitted without a penalty: all effects alike, and the evidence, shape (1 or 2, n_players)."""
    common = np.ones((1, n_players))
    if evidence is None:
        return common
    known = np.isfinite(evidence)
    if not known.any() or np.ptp(evidence[known]) == 0.0:
        return common
    centred = np.where(known, evidence - evidence[known].mean(), 0.0)
    return np.vstack([common, centred / np.abs(centred).max()])


def _independent(design: FloatArray) -> FloatArray:
    """An orthonormal basis of the columns."""
    vectors, sizes, _ = np.linalg.svd(design, full_matrices=False)
    return vectors[:, sizes > _NEGLIGIBLE * sizes[0]]


def _complement(basis: FloatArray) -> NDArray[np.float64]:
    """An orthonormal basis of what is orthogonal to the columns of one."""
    vectors: FloatArray = np.linalg.svd(basis, full_matrices=True)[0]
    return vectors[:, basis.shape[1] :]
