"""Rank correlations, as in ``scipy.stats``, which takes a second to import."""

from typing import Any

import numpy as np
from numpy.typing import NDArray


def average_ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Ranks from 1, shape (n,); equal values share the mean of their ranks."""
    _, place, count = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(count)
    means: NDArray[np.float64] = last - (count - 1) / 2.0
    return means[place]


def spearman(left: NDArray[np.float64], right: NDArray[np.float64]) -> float:
    """Spearman's rank correlation of values, each (n,), neither of them constant; nan if a value is nan."""
    if np.isnan(left).any() or np.isnan(right).any():
        return float("nan")
    ranks: Any = np.column_stack((average_ranks(left), average_ranks(right)))
    return float(np.corrcoef(ranks, rowvar=False)[1, 0])
