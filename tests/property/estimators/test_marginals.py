"""Estimators that average sampled marginal contributions: axioms that hold for any sample, and the rest."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shapcut.estimators.base import EstimationProblem
from shapcut.estimators.exact import ExactEstimator
from shapcut.estimators.permutation import PermutationEstimator
from shapcut.estimators.robustness import examined
from shapcut.estimators.stratified import StratifiedEstimator
from shapcut.game.coalitions import all_coalitions, keys
from shapcut.game.game import FunctionGame
from shapcut.support.errors import InputError, ShapcutError

BOTH = pytest.mark.parametrize(
    "estimator", [PermutationEstimator(), StratifiedEstimator()], ids=lambda e: e.name
)
sizes = st.integers(3, 9)
seeds = st.integers(0, 2**32 - 1)


class Counting(FunctionGame):
    """Remembers the distinct coalitions that it was asked for."""

    def __init__(self, n, function, fixed=()):
        super().__init__(n, self._count)
        self._players = tuple(replace(p, removable=p.index not in fixed) for p in self.players)
        self._inner, self.asked = function, set()

    def _count(self, coalitions):
        self.asked |= set(keys(coalitions))
        return self._inner(coalitions)


def table_of(n, seed):
    return np.random.default_rng(seed).normal(size=2**n)


def game_of(n, table, fixed=()):
    return Counting(n, lambda rows: table[rows @ (1 << np.arange(n))], fixed)


def exact(game):
    return (
        ExactEstimator().estimate(EstimationProblem(game, 2**game.n_players, np.random.default_rng(0))).values
    )


def run(estimator, game, budget, seed):
    return estimator.estimate(EstimationProblem(game, budget, np.random.default_rng(seed)))


def budgets(data, n, at_most=None):
    return data.draw(st.integers(2 * n, at_most or 2**n - 1) if 2 * n < 2**n else st.just(2 * n))


@BOTH
@given(n=sizes, seed=seeds, data=st.data())
def test_the_budget_is_used_and_never_exceeded(estimator, n, seed, data):
    game = game_of(n, table_of(n, seed))
    budget = budgets(data, n)
    found = run(estimator, game, budget, seed)
    assert len(game.asked) <= budget
    assert found.evaluations == len(game.asked)
    if budget < 2 ** (n - 1):
        assert found.evaluations == budget


@BOTH
@given(n=sizes, seed=seeds, data=st.data())
def test_the_same_seed_gives_the_same_answer_and_asks_the_same(estimator, n, seed, data):
    budget = budgets(data, n)
    first, second = (run(estimator, game_of(n, table_of(n, seed)), budget, seed) for _ in range(2))
    np.testing.assert_array_equal(first.values, second.values)
    np.testing.assert_array_equal(first.coalitions, second.coalitions)


@given(n=sizes, seed=seeds, data=st.data())
def test_contributions_of_orders_add_up_to_the_value_of_everybody(n, seed, data):
    table = table_of(n, seed)
    found = run(PermutationEstimator(), game_of(n, table), budgets(data, n), seed)
    assert found.values.sum() == pytest.approx(table[-1] - table[0], abs=1e-9)


@BOTH
@given(n=sizes, seed=seeds, data=st.data())
def test_a_player_that_changes_nothing_gets_nothing(estimator, n, seed, data):
    null = data.draw(st.integers(0, n - 1))
    table = table_of(n, seed)[np.arange(2**n) & ~(1 << null)]
    found = run(estimator, game_of(n, table), budgets(data, n), seed)
    assert found.values[null] == 0.0


@BOTH
@given(n=sizes, seed=seeds, data=st.data())
def test_additivity_of_the_same_sample(estimator, n, seed, data):
    budget, left, right = budgets(data, n), table_of(n, seed), table_of(n, seed + 1)
    found = run(estimator, game_of(n, left), budget, seed)
    other = np.array([right[row @ (1 << np.arange(n))] for row in found.coalitions])
    both = found.refit(found.measured + 2.0 * other, None)
    assert both == pytest.approx(found.values + 2.0 * found.refit(other, None), abs=1e-9)


@BOTH
@given(n=sizes, seed=seeds, data=st.data())
def test_additive_games_are_solved_exactly_so_equal_players_get_equal_values(estimator, n, seed, data):
    worth = np.random.default_rng(seed).normal(size=n)
    worth[1] = worth[0]
    found = run(estimator, Counting(n, lambda rows: rows @ worth), budgets(data, n), seed)
    assert found.values == pytest.approx(worth, abs=1e-9)
    assert found.values[0] == pytest.approx(found.values[1], abs=1e-12)
    assert np.nan_to_num(found.standard_errors) == pytest.approx(0.0, abs=1e-9)


@settings(max_examples=10)
@BOTH
@given(n=st.integers(2, 10), seed=seeds)
def test_with_every_coalition_in_the_budget_the_answer_is_exact(estimator, n, seed):
    game = game_of(n, table_of(n, seed))
    assert run(estimator, game, 2**n, seed).values == pytest.approx(exact(game), abs=1e-9)


@BOTH
def test_the_mean_over_seeds_is_the_exact_answer_and_errors_are_as_large_as_stated(estimator):
    game = game_of(7, table_of(7, 3))
    truth = exact(game)
    found = [run(estimator, game, 90, seed) for seed in range(300)]
    values = np.array([each.values for each in found])
    spread = values.std(axis=0, ddof=1)
    assert np.abs(values.mean(axis=0) - truth).max() < 4.5 * spread.max() / np.sqrt(len(found))
    stated = np.sqrt(np.nanmean(np.array([each.standard_errors for each in found]) ** 2, axis=0))
    assert (stated / spread).mean() == pytest.approx(1.0, abs=0.45)


@BOTH
@given(n=st.integers(4, 8), seed=seeds, data=st.data())
def test_players_that_cannot_be_absent_are_always_there_and_get_nothing_stated(estimator, n, seed, data):
    fixed = data.draw(st.sets(st.integers(0, n - 1), min_size=1, max_size=n - 3))
    game = game_of(n, table_of(n, seed), fixed)
    free = n - len(fixed)
    found = run(estimator, game, max(2 * free, 2**free - 1), seed)
    assert found.coalitions[:, sorted(fixed)].all()
    assert np.isnan(found.values[sorted(fixed)]).all()
    assert np.isfinite(np.delete(found.values, sorted(fixed))).all()


@BOTH
def test_a_coalition_without_a_finite_value_leaves_with_its_marginals(estimator):
    n = 6
    table = table_of(n, 1)
    table[[0, 5, 17, 40]] = [-np.inf, np.nan, np.inf, np.nan]
    found = run(estimator, game_of(n, table), 50, 0)
    assert np.isfinite(found.values).all()
    with pytest.raises(ShapcutError, match="finite marginal"):
        run(estimator, game_of(n, np.full(2**n, np.nan)), 50, 0)


@BOTH
def test_a_budget_that_is_too_small_is_refused_with_what_is_needed(estimator):
    with pytest.raises(InputError, match=r"at least 40 coalitions, got 39"):
        run(estimator, Counting(20, lambda rows: rows.sum(axis=1)), 39, 0)


@BOTH
def test_robustness_comes_with_the_answer_and_costs_nothing(estimator):
    game = game_of(8, table_of(8, 2))
    found = run(estimator, game, 100, 0)
    asked = len(game.asked)
    noise = np.random.default_rng(0).normal(size=(found.evaluations, 2))
    halves = np.column_stack([found.measured, found.measured[:, None] + 1e-6 * noise])
    robust = examined(found, halves, np.random.default_rng(0)).robustness
    assert len(game.asked) == asked
    assert robust.halves_kendall > 0.99
    assert robust.halves_coalitions == found.evaluations
    assert 0.0 < robust.rank_stability < 1.0
    ratio = robust.bootstrap_errors / found.standard_errors
    assert 0.2 < np.nanmedian(ratio) < 1.6  # strata of one or two samples vary too little
    apart = np.column_stack([found.measured, noise])
    assert abs(examined(found, apart, np.random.default_rng(0)).robustness.halves_kendall) < 0.8


@settings(max_examples=5)
@given(n=st.integers(3, 6), seed=seeds)
def test_all_coalitions_have_nothing_to_resample(n, seed):
    game = game_of(n, table_of(n, seed))
    found = ExactEstimator().estimate(EstimationProblem(game, 2**n, np.random.default_rng(0)))
    halves = np.column_stack([found.measured] * 3)
    robust = examined(found, halves, np.random.default_rng(0)).robustness
    assert (robust.resamples, robust.rank_stability, robust.bootstrap_errors) == (0, None, None)
    assert robust.halves_kendall == pytest.approx(1.0)
    assert len(all_coalitions(n)) == robust.halves_coalitions
