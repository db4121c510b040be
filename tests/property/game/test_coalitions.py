"""Coalitions: enumeration, keys and the conversions between them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from shapcut.game.budget import BudgetedGame
from shapcut.game.coalitions import absent_players, all_coalitions, distinct, keys, without
from shapcut.game.game import FunctionGame

matrices = st.integers(1, 20).flatmap(
    lambda n: hnp.arrays(np.bool_, st.tuples(st.integers(0, 12), st.just(n)))
)


@pytest.mark.parametrize("n", [0, 1, 2, 7, 8, 9, 11])
def test_all_coalitions_are_the_binary_digits_of_their_row_number(n):
    coalitions = all_coalitions(n)
    assert coalitions.shape == (2**n, n)
    assert coalitions.dtype == np.bool_
    assert (coalitions.astype(np.int64) @ (1 << np.arange(n)) == np.arange(2**n)).all()


@pytest.mark.parametrize("n", [1, 8, 9, 11])
def test_every_coalition_has_a_key_of_its_own(n):
    assert len(set(keys(all_coalitions(n)))) == 2**n


@given(matrices)
def test_keys_lead_back_to_the_coalitions(coalitions):
    n = coalitions.shape[1]
    game = BudgetedGame(FunctionGame(n, lambda rows: rows.sum(axis=1)), budget=len(coalitions))
    game.values(coalitions)
    back, values = game.evaluated()
    assert (back == distinct(coalitions)).all()
    assert back.shape == distinct(coalitions).shape
    assert (values == back.sum(axis=1)).all()


@given(matrices)
def test_equal_keys_mean_equal_rows(coalitions):
    names = keys(coalitions)
    for left, name in enumerate(names):
        for right, other in enumerate(names):
            assert (name == other) == (coalitions[left] == coalitions[right]).all()


@given(matrices)
def test_distinct_keeps_first_appearances_in_order(coalitions):
    kept = list(dict.fromkeys(map(tuple, coalitions.tolist())))
    assert list(map(tuple, distinct(coalitions).tolist())) == kept


@given(matrices)
def test_without_undoes_absent_players(coalitions):
    absent = [absent_players(row) for row in coalitions]
    assert (without(coalitions.shape[1], absent) == coalitions).all()


@pytest.mark.parametrize("player", [-1, 4])
def test_without_refuses_unknown_players(player):
    with pytest.raises(IndexError, match=r"not all in 0\.\.3"):
        without(4, [[0], [player]])
