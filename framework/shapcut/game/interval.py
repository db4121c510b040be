"""Confidence intervals: of means over windows or repeats, and of one model's figure over another's."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shapcut.support.digits import apart

LEVEL = 0.95
"""Confidence of every interval."""

_LARGEST_CORRELATION = 1 - 1e-9
"""Beyond it Fisher's transformation is infinite."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A confidence interval.

    Attributes:
        low: the lower end.
        high: the upper end.
    """

    low: float
    high: float

    def exp(self) -> "Interval":
        """The interval of the exponential."""
        return Interval(_exp(self.low), _exp(self.high))


@dataclass(frozen=True, slots=True)
class Ratio:
    """One model's figure over another's.

    Attributes:
        value: the ratio.
        interval: its confidence interval; None if there are too few measurements for one.
    """

    value: float
    interval: Interval | None

    @property
    def told_apart(self) -> bool:
        """Whether the interval excludes 1."""
        return self.interval is not None and not self.interval.low <= 1.0 <= self.interval.high

    def change(self) -> str:
        """The interval as a change in percent; empty without one."""
        if self.interval is None:
            return ""
        low, high = apart([100 * (self.interval.low - 1), 100 * (self.interval.high - 1)], "{:+,.1f}%")
        return f"{low} to {high}"

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        ends = (None, None) if self.interval is None else (self.interval.low, self.interval.high)
        return {"ratio": self.value, "low": ends[0], "high": ends[1], "told_apart": self.told_apart}


def mean_interval(
    values: Sequence[float], weights: Sequence[float] | None = None, *, level: float = LEVEL
) -> Interval | None:
    """The t interval of a weighted mean of independent values, such as losses of windows.

    Args:
        values: the values.
        weights: of each, such as its number of tokens; None: all alike.
        level: the interval's confidence.

    Returns:
        None with fewer than two values, or if one is not finite.
    """
    known = np.asarray(values, dtype=np.float64)
    shares = np.ones(len(known)) if weights is None else np.asarray(weights, dtype=np.float64)
    if len(known) < 2 or not np.isfinite(known).all():  # noqa: PLR2004 - a spread needs two
        return None
    shares = shares / shares.sum()
    mean = float(shares @ known)
    variance = len(known) / (len(known) - 1) * float(shares**2 @ (known - mean) ** 2)
    return _around(mean, math.sqrt(variance), len(known) - 1, level)


def ratio_of_means(before: Sequence[float], after: Sequence[float]) -> Interval | None:
    """The interval of the ratio of two geometric means of unpaired positive values, such as durations.

    Welch's t interval of the difference of the logarithms' means.

    Returns:
        None with fewer than two values of either, or if one is not positive.
    """
    samples = [np.asarray(each, dtype=np.float64) for each in (before, after)]
    if any(len(each) < 2 or not (each > 0.0).all() for each in samples):  # noqa: PLR2004 - as above
        return None
    first, last = (np.log(each) for each in samples)
    parts = [_variance_of_mean(first), _variance_of_mean(last)]
    variance = sum(parts)
    spread = sum(part**2 / (len(each) - 1) for part, each in zip(parts, (first, last), strict=True))
    freedom = variance**2 / spread if spread > 0.0 else 1.0
    return _around(float(last.mean() - first.mean()), math.sqrt(variance), freedom).exp()


def rank_interval(spearman: float, count: int) -> Interval | None:
    """The interval of Spearman's rank correlation of ``count`` pairs; None for fewer than four.

    Fisher's transformation with the variance of Bonett and Wright, Psychometrika 2000.
    """
    if count < 4:  # noqa: PLR2004 - the variance needs four
        return None
    centre = math.atanh(max(-_LARGEST_CORRELATION, min(_LARGEST_CORRELATION, spearman)))
    half = NormalDist().inv_cdf((1 + LEVEL) / 2) * math.sqrt((1 + spearman**2 / 2) / (count - 3))
    return Interval(math.tanh(centre - half), math.tanh(centre + half))


def _variance_of_mean(values: NDArray[np.float64]) -> float:
    return float(values.var(ddof=1)) / len(values)


def _around(mean: float, error: float, freedom: float, level: float = LEVEL) -> Interval:
    from scipy.special import stdtrit  # noqa: PLC0415 - takes a moment to import

    half = float(stdtrit(freedom, (1.0 + level) / 2.0)) * error
    return Interval(mean - half, mean + half)


def _exp(value: float) -> float:
    try:
        return math.exp(value)
    except OverflowError:
        return math.inf
