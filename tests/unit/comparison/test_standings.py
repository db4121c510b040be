"""Who is called best: only whom the intervals tell apart, and an outlier does not decide a mean."""

import math

import numpy as np
import pytest

from shapcut.comparison.row import ResultRow
from shapcut.comparison.standings import standings, summaries, verdicts

NOISE = np.random.default_rng(0).normal(size=16)
"""What makes windows hard, for all methods alike."""


def row(method: str, nats: float, *, seed: int = 0, n_remove: int = 2, tokens: int = 10) -> ResultRow:
    """A row whose loss is ``nats`` above that of windows which vary much."""
    windows = tuple((3.0 + NOISE - NOISE.mean() + nats).tolist())
    return ResultRow(
        key=f"{method}{seed}{n_remove}",
        method=method,
        estimator="",
        selector="",
        utility="",
        source="",
        budget=1,
        n_remove=n_remove,
        seed=seed,
        held_out_perplexity=math.exp(3.0 + nats) if math.isfinite(nats) else None,
        held_out_nats=windows if math.isfinite(nats) else (),
        tokens=tokens,
        seconds=1.0,
    )


def wobbling(made: ResultRow, size: float) -> ResultRow:
    """A row with a loss that differs from window to window by up to ``size`` and is the same in the mean."""
    change = np.tile([size, -size], 8)
    return made.model_copy(update={"held_out_nats": tuple((np.array(made.held_out_nats) + change).tolist())})


def test_pairing_tells_small_differences_apart_and_wide_ones_not() -> None:
    first, second, third = standings(
        [wobbling(row("b", 0.01), 0.001), wobbling(row("c", 0.02), 0.5), row("a", 0.0)]
    )
    assert [first.method, second.method, third.method] == ["a", "b", "c"]
    assert first.interval is not None
    assert first.interval.high / first.interval.low > 1.5  # windows differ much, the differences do not
    assert (first.best, second.best, third.best) == (True, False, True)
    assert second.over_best is not None
    assert second.over_best.value == pytest.approx(math.exp(0.01))


def test_ties_are_named_as_such_with_what_they_cost() -> None:
    rows = [row("a", 0.0, tokens=300), row("b", 0.0, tokens=20), row("c", 1.0, tokens=9999)]
    (said,) = verdicts(standings(rows)).values()
    assert said.startswith("a and b are not told apart; the lowest perplexity 20.09 (")
    assert "b processed the fewest tokens, 20, and a the most, 300" in said
    (alone,) = verdicts(standings([row("a", 0.0), row("c", 1.0)])).values()
    assert alone.startswith("a does best: perplexity 20.09 (")
    assert "next is c with 54.60 (+171.8% to +171.8% above it)" in alone


def test_who_is_better_for_one_seed_is_not_told_apart() -> None:
    rows = [row("a", 0.0), row("b", 0.1), row("a", 0.2, seed=1), row("b", 0.15, seed=1)]
    assert [each.best for each in standings(rows)] == [True, True]
    assert [each.best for each in standings(rows[:2])] == [True, False]


def test_means_are_geometric_and_a_lost_seed_is_no_mean() -> None:
    rows = [row("a", 0.0), row("a", 10.0, seed=1), row("b", 1.0), row("b", math.inf, seed=1)]
    first, second = standings(rows)
    assert first.perplexity == pytest.approx(math.exp(8.0))
    assert (second.perplexity, second.best, second.finite, second.seeds) == (None, False, 1, 2)
    assert second.lowest == second.highest == pytest.approx(math.exp(4.0))


def test_a_summary_counts_where_a_method_is_best() -> None:
    rows = [row(m, nats, n_remove=n) for n in (1, 2, 3) for m, nats in (("a", 0.1), ("b", 0.1 * n))]
    found = {each.method: each for each in summaries(standings(rows))}
    assert (found["a"].best, found["b"].best, found["a"].sizes) == (3, 1, 3)
    assert found["b"].perplexity == pytest.approx(math.exp(3.2))


def test_nothing_finite_has_no_best() -> None:
    found = standings([row("a", math.inf), row("b", math.inf)])
    assert not any(each.best for each in found)
    assert verdicts(found)[2] == "No method has a finite result for every seed."
