"""The axioms that define the Shapley value (Shapley, 1953), for the estimator `exact`."""

from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from shapcut.estimators.base import EstimationProblem
from shapcut.estimators.exact import ExactEstimator
from shapcut.game.coalitions import all_coalitions
from shapcut.game.game import FunctionGame
from shapcut.support.errors import InputError, ShapcutError

RNG = np.random.default_rng(0)


def tables(n):
    return hnp.arrays(np.float64, 2**n, elements=st.floats(-100, 100, allow_subnormal=False))


sized_tables = st.integers(1, 5).flatmap(lambda n: st.tuples(st.just(n), tables(n)))
pairs_of_tables = st.integers(1, 5).flatmap(lambda n: st.tuples(st.just(n), tables(n), tables(n)))


def table_game(n, table):
    """The game whose value of coalition number r is ``table[r]``."""
    return FunctionGame(n, lambda rows: table[rows @ (1 << np.arange(n))])


def shapley(n, table):
    return ExactEstimator().estimate(EstimationProblem(table_game(n, table), 2**n, RNG)).values


def renumbered(n, new_index):
    """For each coalition the number of the coalition of the same players under their new indices."""
    rows = all_coalitions(n)
    renamed = np.empty_like(rows)
    renamed[:, new_index] = rows
    return renamed @ (1 << np.arange(n))


@given(sized_tables)
def test_efficiency(case):
    n, table = case
    assert shapley(n, table).sum() == pytest.approx(table[-1] - table[0], abs=1e-9)


@given(pairs_of_tables, st.floats(-3, 3))
def test_additivity(case, factor):
    n, table, other = case
    assert shapley(n, table + factor * other) == pytest.approx(
        shapley(n, table) + factor * shapley(n, other), abs=1e-9
    )


@given(sized_tables, st.data())
def test_null_player(case, data):
    n, table = case
    null = data.draw(st.integers(0, n - 1))
    rows = np.arange(2**n)
    contributions = shapley(n, table[rows & ~(1 << null)])
    assert contributions[null] == 0.0


@given(sized_tables, st.data())
def test_symmetry(case, data):
    n, table = case
    left, right = data.draw(st.integers(0, n - 1)), data.draw(st.integers(0, n - 1))
    swapped = np.arange(n)
    swapped[[left, right]] = swapped[[right, left]]
    contributions = shapley(n, table + table[renumbered(n, swapped)])
    assert contributions[left] == pytest.approx(contributions[right], abs=1e-9)


@given(sized_tables, st.data())
def test_equivariance_under_renaming_players(case, data):
    n, table = case
    new_index = np.array(data.draw(st.permutations(range(n))))
    renamed = np.empty_like(table)
    renamed[renumbered(n, new_index)] = table
    assert shapley(n, renamed)[new_index] == pytest.approx(shapley(n, table), abs=1e-9)


@given(st.integers(1, 4).flatmap(lambda n: st.tuples(st.just(n), tables(n))))
def test_mean_over_orders_of_arrival(case):
    n, table = case
    total = np.zeros(n)
    orders = list(permutations(range(n)))
    for order in orders:
        number = 0
        for player in order:
            total[player] += table[number | 1 << player] - table[number]
            number |= 1 << player
    assert shapley(n, table) == pytest.approx(total / len(orders), abs=1e-9)


@given(st.integers(2, 5).flatmap(lambda n: st.tuples(st.just(n), tables(n))), st.data())
def test_players_that_cannot_be_absent_have_no_value_and_are_always_there(case, data):
    n, table = case
    fixed = data.draw(st.sets(st.integers(0, n - 1), min_size=1, max_size=n))
    free = [player for player in range(n) if player not in fixed]
    game = with_fixed(table_game(n, table), fixed)
    found = ExactEstimator().estimate(EstimationProblem(game, 2 ** len(free), RNG))
    assert found.coalitions[:, sorted(fixed)].all()
    assert np.isnan(found.values[sorted(fixed)]).all()
    assert np.isnan(found.standard_errors[sorted(fixed)]).all()
    inner = all_coalitions(len(free))
    rows = np.ones((len(inner), n), dtype=np.bool_)
    rows[:, free] = inner
    smaller = table[rows @ (1 << np.arange(n))]
    expected = shapley(len(free), smaller) if free else []
    assert found.values[free] == pytest.approx(expected, abs=1e-9)


def with_fixed(game, fixed):
    game._players = tuple(replace(p, removable=p.index not in fixed) for p in game.players)
    return game


def test_full_value_and_evidence_are_reported():
    table = np.arange(8.0)
    found = ExactEstimator().estimate(EstimationProblem(table_game(3, table), 8, RNG))
    assert found.full_value == 7.0
    assert found.measured.tolist() == table.tolist()
    assert (found.coalitions == all_coalitions(3)).all()
    assert (found.standard_errors == 0).all()


def test_a_value_that_is_not_finite_leaves_no_exact_answer():
    table = np.array([0.0, np.nan, 1.0, -np.inf])
    with pytest.raises(ShapcutError, match="2 of 4 coalitions have no finite value"):
        ExactEstimator().estimate(EstimationProblem(table_game(2, table), 4, RNG))


def test_refuses_a_small_budget_and_a_large_game():
    with pytest.raises(InputError, match="needs a budget of at least 8 coalitions, got 7"):
        ExactEstimator().estimate(EstimationProblem(table_game(3, np.zeros(8)), 7, RNG))
    with pytest.raises(InputError, match="at most 16 players, the game has 17"):
        ExactEstimator().estimate(EstimationProblem(FunctionGame(17, lambda rows: rows[:, 0]), 10**6, RNG))
