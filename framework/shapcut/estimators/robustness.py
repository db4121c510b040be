"""Robustness of contributions to the drawn coalitions and to the calibration text."""

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shapcut.game.contributions import Contributions, Robustness
from shapcut.game.game import Measurements

RESAMPLES, FEW_RESAMPLES = 32, 8
MANY_COALITIONS = 2_000
"""Above this number of coalitions a refit takes seconds, so fewer resamples are drawn."""

_FEWEST_PLAYERS = 3


def examined(
    contributions: Contributions, measurements: Measurements, rng: np.random.Generator
) -> Contributions:
    """Add robustness to contributions, without further measurements.

    Args:
        contributions: an estimator's result.
        measurements: those of its coalitions that were measured on all text, shape (n_coalitions, 3).
        rng: source of the resamples.
    """
    if contributions.refit is None:
        return contributions
    measurements = np.vstack([measurements, contributions.estimated])
    count = RESAMPLES if contributions.evaluations <= MANY_COALITIONS else FEW_RESAMPLES
    drawn = (contributions.refit(contributions.measured, rng) for _ in range(count))
    resamples = [each for each in drawn if each is not None]
    taus = [tau for each in resamples if (tau := kendall(each, contributions.values)) is not None]
    kendall_halves, spearman_halves, coalitions = _between_halves(contributions, measurements)
    found = Robustness(
        resamples=len(resamples),
        bootstrap_errors=np.std(resamples, axis=0, ddof=1) if len(resamples) > 1 else None,
        rank_stability=float(np.mean(taus)) if taus else None,
        halves_kendall=kendall_halves,
        halves_spearman=spearman_halves,
        halves_coalitions=coalitions,
    )
    return replace(contributions, robustness=found)


def kendall(left: NDArray[np.float64], right: NDArray[np.float64]) -> float | None:
    """Kendall's tau-b over the players that are finite in both; None if undefined."""
    return _agreement("kendalltau", left, right)


def spearman(left: NDArray[np.float64], right: NDArray[np.float64]) -> float | None:
    """Spearman's rank correlation over the players that are finite in both; None if undefined."""
    return _agreement("spearmanr", left, right)


def _agreement(name: str, left: NDArray[np.float64], right: NDArray[np.float64]) -> float | None:
    from scipy import stats  # noqa: PLC0415 - a second to import

    known = np.isfinite(left) & np.isfinite(right)
    left, right = left[known], right[known]
    if len(left) < _FEWEST_PLAYERS or np.ptp(left) == 0 or np.ptp(right) == 0:
        return None
    function: Any = getattr(stats, name)
    return float(function(left, right).statistic)


def _between_halves(
    contributions: Contributions, measurements: Measurements
) -> tuple[float | None, float | None, int]:
    """Kendall, Spearman, and the number of coalitions with finite values on both halves."""
    halves = measurements[:, 1:]
    usable = int(np.isfinite(halves).all(axis=1).sum())
    if contributions.refit is None or not usable:
        return None, None, usable
    first, second = (contributions.refit(half, None) for half in halves.T)
    if first is None or second is None:
        return None, None, usable
    return kendall(first, second), spearman(first, second), usable
