"""Shapley values from marginal contributions, stratified by player and coalition size."""

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
)
from shapcut.game.coalitions import Values, without

FIRST_STAGE = 0.5
"""Share of the budget spread over strata to estimate their variances; enough to meet each if possible."""


class StratifiedEstimator(MonteCarloEstimator):
    """Stratified sampling with optimum allocation (Castro et al., 2017).

    A stratum is a player and the size of the coalition that it joins; the Shapley value is the mean over
    sizes of the strata's means. The first stage walks the rotations of random orders, which together meet
    every stratum once for one evaluation a sample. The second gives the rest of the budget to the strata that
    vary most (Neyman allocation), two evaluations a sample. With a budget below about n^2 coalitions some
    strata are never met; the mean leaves them out and is then biased.
    """

    name = "stratified"
    weighting = "the Shapley weights, sampled for each player and coalition size"

    def sample(self, walker: Walker, rng: np.random.Generator) -> "StrataSummary":
        """Rotations of orders first, then single marginal contributions."""
        budget, n = walker.game.budget, walker.n
        first = max(round(FIRST_STAGE * budget), n * (n - 1) + 2)
        orders = np.vstack(walker.affordable(_rotations(n, rng), budget, min(first, budget)))
        marginals = walker.walk(orders)
        deviations = _deviations(StrataSummary(marginals, n), walker)
        while walker.game.remaining >= 2 and len(marginals.player) < n * budget:  # noqa: PLR2004 - one sample
            further = _draw(walker, deviations, walker.game.remaining // 2, rng)
            marginals = Marginals.joining([marginals, further])
        return StrataSummary(marginals, n)


@dataclass(frozen=True, slots=True)
class StrataSummary(Summary):
    """Means over sizes of the means of the strata.

    Attributes:
        marginals: the samples.
        n: number of removable players.
    """

    marginals: Marginals
    n: int

    def resampled(
        self, values: Values, rng: np.random.Generator | None
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """See `Summary.resampled`: samples are drawn with replacement within each stratum."""
        found: Values = self.marginals.of(values)
        stratum = self.marginals.player * self.n + self.marginals.size
        if rng is not None:
            order = np.argsort(stratum, kind="stable")
            starts = np.searchsorted(stratum[order], stratum)
            counts = np.bincount(stratum, minlength=self.n**2)[stratum]
            found = found[order[starts + rng.integers(counts)]]
        means, variances, counts = self.strata(found)
        met = (counts > 0).sum(axis=1)
        error = np.where(counts > 0, variances / np.maximum(counts, 1), 0.0).sum(axis=1)
        return mean_of_known(means, axis=1), np.sqrt(error) / np.maximum(met, 1)

    def strata(self, found: Values) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """Means, variances and counts of the finite samples, each (players, sizes).

        A stratum with one sample gets the mean variance of the player's other strata.
        """
        known = ~np.isnan(found)
        stratum = (self.marginals.player * self.n + self.marginals.size)[known]
        shape = (self.n, self.n)
        counts = np.bincount(stratum, minlength=self.n**2).astype(np.float64)
        total = np.bincount(stratum, weights=found[known], minlength=self.n**2)
        means = np.where(counts > 0, total / np.maximum(counts, 1), np.nan)
        away = (found[known] - means[stratum]) ** 2
        squares = np.bincount(stratum, weights=away, minlength=self.n**2)
        variances = np.where(counts > 1, squares / np.maximum(counts - 1, 1), np.nan).reshape(shape)
        typical = mean_of_known(variances, axis=1)[:, None]
        return means.reshape(shape), np.where(np.isnan(variances), typical, variances), counts.reshape(shape)


def _rotations(n: int, rng: np.random.Generator) -> Iterator[Orders]:
    """Orders one by one; every n of them are the rotations of one order, spread evenly at first."""
    while True:
        order = rng.permutation(n)
        for start in rng.permutation(n).tolist():
            yield np.roll(order, start)[None]


def _deviations(summary: StrataSummary, walker: Walker) -> NDArray[np.float64]:
    """Standard deviation of each stratum, flat; strata of a single coalition cannot vary."""
    _, values = walker.game.evaluated()
    variances = summary.strata(summary.marginals.of(values))[1].reshape(walker.n, walker.n)
    known = variances[np.isfinite(variances)]
    typical = float(known.mean()) if len(known) else 1.0
    filled: NDArray[np.float64] = np.where(np.isfinite(variances), variances, typical)
    filled[:, [0, -1]] = 0.0
    return np.sqrt(filled).ravel()


def _draw(walker: Walker, deviations: NDArray[np.float64], count: int, rng: np.random.Generator) -> Marginals:
    """Single samples, allocated to strata in proportion to their deviations."""
    n, total = walker.n, deviations.sum()
    chances = deviations / total if total > 0 else np.full(n * n, 1 / (n * n))
    stratum = np.repeat(np.arange(n * n), rng.multinomial(count, chances))
    player, size = stratum // n, stratum % n
    lacking = []
    for who, others in zip(player.tolist(), size.tolist(), strict=True):
        present = rng.choice(np.delete(np.arange(n), who), size=others, replace=False)
        lacking.append(np.delete(walker.candidates, present).tolist())
    before = without(walker.game.n_players, lacking)
    after = before.copy()
    after[np.arange(len(player)), walker.candidates[player]] = True
    rows = walker.measure(np.vstack([before, after]))
    return Marginals(player, size, rows[: len(player)], rows[len(player) :])
