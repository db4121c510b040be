"""Polynomials of degree two in the absence of players, and their Gaussian prior."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shapcut.game.coalitions import CoalitionMatrix, Values

FloatArray = NDArray[np.float64]

INTERCEPT_VARIANCE = 10.0
_CHUNK = 1 << 21
"""Numbers in a temporary array; larger inputs go through in chunks of rows."""


def chunks(rows: int, width: int) -> Iterator[slice]:
    """Slices that cover ``rows`` rows, each of about 16 MiB at ``width`` floats a row."""
    step = max(1, _CHUNK // max(1, width))
    return (slice(start, start + step) for start in range(0, rows, step))


def pairs_among(size: FloatArray) -> FloatArray:
    """The number of pairs among ``size`` players."""
    pairs: FloatArray = size * (size - 1) / 2
    return pairs


@dataclass(frozen=True, slots=True)
class Scales:
    """Prior variances of the coefficients, in units of the squared spread of the data.

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

    def variance(self, size: FloatArray) -> FloatArray:
        """Prior variance of the value of coalitions that lack ``size`` players."""
        pairs = pairs_among(size)
        variance: FloatArray = (
            INTERCEPT_VARIANCE
            + self.player * size
            + self.pair * pairs
            + self.common_player * size**2
            + self.common_pair * pairs**2
        )
        return variance

    def contribution_variance(self, absence: float, partners: int) -> float:
        """Prior variance of a contribution; each of ``partners`` players is absent with this probability."""
        pairs = partners * self.pair + partners**2 * self.common_pair
        return self.player + self.common_player + absence**2 * pairs


@dataclass(frozen=True, slots=True)
class Polynomial:
    """A polynomial of absence indicators: ``constant + linear @ x + 1/2 x @ pairs @ x``.

    Attributes:
        constant: the value of the whole.
        linear: shape (n,).
        pairs: symmetric with a diagonal of 0, shape (n, n).
    """

    constant: float
    linear: FloatArray
    pairs: FloatArray

    def predict(self, coalitions: CoalitionMatrix) -> Values:
        """The value of each row."""
        values: Values = np.empty(len(coalitions))
        for rows in chunks(*coalitions.shape):
            absent = (~coalitions[rows]).astype(np.float64)
            slopes = 0.5 * (absent @ self.pairs) + self.linear
            values[rows] = self.constant + np.einsum("rp,rp->r", absent, slopes)
        return values

    def scaled(self, unit: float, origin: float = 0.0) -> "Polynomial":
        """``origin`` plus ``unit`` times this polynomial."""
        return Polynomial(origin + unit * self.constant, unit * self.linear, unit * self.pairs)


def draw_prior(scales: Scales, n: int, rng: np.random.Generator) -> Polynomial:
    """Draw a polynomial of ``n`` players from the prior."""
    linear = rng.normal(size=n) * scales.player**0.5 + rng.normal() * scales.common_player**0.5
    pairs = np.triu(rng.normal(size=(n, n)) * scales.pair**0.5, 1)
    pairs = pairs + pairs.T + rng.normal() * scales.common_pair**0.5
    np.fill_diagonal(pairs, 0.0)
    return Polynomial(rng.normal() * INTERCEPT_VARIANCE**0.5, linear, pairs)
