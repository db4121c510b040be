"""Shapley values from random permutations and their reverses."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shapcut.estimators.marginals import (
    Marginals,
    MonteCarloEstimator,
    Orders,
    Summary,
    Walker,
    mean_of_known,
    variance_of_known,
)
from shapcut.game.coalitions import Values


class PermutationEstimator(MonteCarloEstimator):
    """Mean marginal contribution over random permutations (Castro et al., 2009), in antithetic pairs.

    A permutation and its reverse put each player at opposite ends, so their errors partly cancel (Mitchell et
    al., *Sampling permutations for Shapley value estimation*, 2022). Contributions add up to the value of
    all players minus the value of none. Standard errors are of the mean over pairs. A remainder of the budget
    that is too small for a pair pays for a single permutation, then for coalitions that only a selector uses.
    """

    name = "permutation"
    weighting = "the Shapley weights, sampled permutations and their reverses"

    def sample(self, walker: Walker, rng: np.random.Generator) -> "PairSummary":
        """Walk as many pairs as the budget allows, then one permutation if it fits."""
        budget = walker.game.budget
        pairs = walker.affordable(_pairs(walker.n, rng), budget, budget)
        samples = [walker.walk(np.vstack(pairs))] if pairs else []
        single = walker.affordable(iter([rng.permutation(walker.n)[None]]), 1, budget)
        samples += [walker.walk(order) for order in single]
        return PairSummary(Marginals.joining(samples), len(pairs), walker.n)


@dataclass(frozen=True, slots=True)
class PairSummary(Summary):
    """The mean over pairs of permutations; a single last one counts half.

    Attributes:
        marginals: samples from ``2 * pairs`` permutations, or one more.
        pairs: number of pairs.
        n: number of removable players.
    """

    marginals: Marginals
    pairs: int
    n: int

    def resampled(
        self, values: Values, rng: np.random.Generator | None
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """See `Summary.resampled`: whole pairs are drawn with replacement."""
        orders = np.empty((len(self.marginals.player) // self.n, self.n))
        which = np.repeat(np.arange(len(orders)), self.n)
        orders[which, self.marginals.player] = self.marginals.of(values)
        paired: NDArray[np.float64] = orders[: 2 * self.pairs].reshape(self.pairs, 2, self.n)
        rest = orders[2 * self.pairs :]
        if rng is not None and self.pairs:
            paired = paired[rng.integers(self.pairs, size=self.pairs)]
        everything = np.concatenate([paired.reshape(-1, self.n), rest])
        errors = np.sqrt(variance_of_known(mean_of_known(paired, axis=1)) / max(self.pairs, 1))
        return mean_of_known(everything), errors


def _pairs(n: int, rng: np.random.Generator) -> Iterator[Orders]:
    while True:
        order = rng.permutation(n)
        yield np.stack([order, order[::-1]])
