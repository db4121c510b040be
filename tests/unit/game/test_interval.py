"""Intervals: against textbook formulas and against what repeated draws cover."""

import math

import numpy as np
import pytest
from scipy import stats

from shapcut.game.interval import Interval, Ratio, mean_interval, rank_interval, ratio_of_means


def test_the_interval_of_a_mean_is_student_s() -> None:
    values = [3.0, 4.0, 4.5, 7.0]
    found = mean_interval(values)
    assert found is not None
    reference = stats.ttest_1samp(values, 0.0).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((reference.low, reference.high))
    assert mean_interval(values, [5, 5, 5, 5]) == found
    weighted = mean_interval([1.0, 2.0, 2.0], [2, 1, 1])
    assert weighted is not None
    assert (weighted.low + weighted.high) / 2 == pytest.approx(1.5)


@pytest.mark.parametrize("values", [[], [1.0], [1.0, math.inf], [math.nan, 1.0, 2.0]])
def test_too_little_has_no_interval(values: list[float]) -> None:
    assert mean_interval(values) is None


def test_the_interval_of_a_ratio_is_welch_s() -> None:
    before, after = [1.0, 1.1, 0.9, 1.05], [2.0, 2.4, 1.9]
    found = ratio_of_means(before, after)
    assert found is not None
    reference = stats.ttest_ind(np.log(after), np.log(before), equal_var=False).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((math.exp(reference.low), math.exp(reference.high)))
    assert ratio_of_means([1.0], after) is None
    assert ratio_of_means([1.0, 0.0], after) is None
    same = ratio_of_means([2.0, 2.0], [2.0, 2.0])
    assert same == Interval(1.0, 1.0)


def test_a_ratio_is_told_apart_only_by_an_interval_without_1() -> None:
    assert Ratio(1.2, Interval(1.1, 1.3)).told_apart
    assert not Ratio(1.2, Interval(0.9, 1.5)).told_apart
    assert not Ratio(1.2, None).told_apart
    assert Ratio(1.2, Interval(1.1, 1.3)).change() == "+10.0% to +30.0%"
    assert Ratio(1.0, Interval(1.00001, 1.00002)).change() == "+0.001% to +0.002%"


def test_the_interval_of_a_rank_correlation_covers_it() -> None:
    rng, covered = np.random.default_rng(0), 0
    truth = 6 / math.pi * math.asin(0.6 / 2)  # Spearman of a normal pair with correlation 0.6
    for _ in range(200):
        one, noise = rng.normal(size=(2, 40))
        found = rank_interval(float(stats.spearmanr(one, 0.6 * one + 0.8 * noise).statistic), 40)
        assert found is not None
        covered += found.low <= truth <= found.high
    assert covered >= 180
    assert rank_interval(0.5, 3) is None
    assert rank_interval(1.0, 10) is not None
