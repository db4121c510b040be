"""Our rank correlation is that of scipy.stats, to the last bit."""

import numpy as np
import pytest
from scipy import stats

from shapcut.game.ranks import average_ranks, kendall, spearman


@pytest.mark.parametrize("levels", [3, 8, None], ids=["many ties", "ties", "no ties"])
def test_ranks_and_their_correlation_are_those_of_scipy(levels: int | None) -> None:
    rng = np.random.default_rng(0)
    for size in (3, 4, 11, 60):
        left = rng.normal(size=size) if levels is None else np.arange(size) % levels + 0.0
        right = left + rng.normal(size=size) if levels is None else rng.permutation(left)
        assert average_ranks(left).tolist() == stats.rankdata(left).tolist()
        assert spearman(left, right) == stats.spearmanr(left, right).statistic
        assert kendall(left, right) == stats.kendalltau(left, right).statistic


def test_an_infinite_value_has_a_rank_and_nan_has_none() -> None:
    left, right = np.array([0.0, 1.0, np.inf, 2.0]), np.array([0.0, 1.0, 5.0, 2.0])
    assert spearman(left, right) == 1.0
    assert np.isnan(spearman(left, np.array([0.0, np.nan, 5.0, 2.0])))
