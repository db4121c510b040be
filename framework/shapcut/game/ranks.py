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


def kendall(left: NDArray[np.float64], right: NDArray[np.float64]) -> float:
    """Kendall's tau-b of finite values, each (n,), in O(n^2); nan if one of them is constant."""
    above = np.triu_indices(len(left), 1)
    signs = [np.sign(np.subtract.outer(values, values)[above]) for values in (left, right)]
    untied = [np.sqrt(np.count_nonzero(sign)) for sign in signs]
    return float(np.clip(signs[0] @ signs[1] / untied[0] / untied[1], -1.0, 1.0))
