"""The budget counts distinct coalitions and is checked before anything is evaluated."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import shapcut
from shapcut.game.budget import BudgetedGame, capped_budget
from shapcut.game.coalitions import all_coalitions, keys
from shapcut.game.game import FunctionGame
from shapcut.support.errors import BudgetExceededError

N_PLAYERS = 4
requests = st.lists(st.lists(st.integers(0, 2**N_PLAYERS - 1), max_size=8), max_size=6)


class Recording(FunctionGame):
    """The value of a coalition is its number; remembers what it was asked for."""

    def __init__(self):
        self.asked = []
        super().__init__(N_PLAYERS, self._number)

    def _number(self, coalitions):
        numbers = coalitions @ (1 << np.arange(N_PLAYERS))
        self.asked.extend(numbers.tolist())
        return numbers


@given(requests, st.integers(0, 10))
def test_budget(lists, budget):
    inner = Recording()
    game = BudgetedGame(inner, budget)
    expected = []
    for numbers in lists:
        rows = all_coalitions(N_PLAYERS)[numbers]
        new = [number for number in dict.fromkeys(numbers) if number not in expected]
        before = list(inner.asked)
        assert game.is_known(rows) == [number in expected for number in numbers]
        if len(expected) + len(new) > budget:
            with pytest.raises(BudgetExceededError, match=f"{len(new)} new .* budget of {budget}"):
                game.values(rows)
            assert inner.asked == before
        else:
            assert game.values(rows).tolist() == numbers
            assert game.values(rows).dtype == np.float64
            expected += new
        assert inner.asked == expected
        assert (game.spent, game.remaining) == (len(expected), budget - len(expected))
    coalitions, values = game.evaluated()
    assert values.tolist() == expected
    assert keys(coalitions) == keys(all_coalitions(N_PLAYERS)[expected])


def test_known_rows_are_free_when_the_budget_is_spent():
    game = BudgetedGame(Recording(), 1)
    rows = all_coalitions(N_PLAYERS)[[5, 5, 5]]
    assert game.values(rows).tolist() == [5, 5, 5]
    assert game.values(rows).tolist() == [5, 5, 5]
    assert game.remaining == 0


def test_permits_asks_the_wrapped_game():
    inner = Recording()
    inner.permits = lambda absent: list(absent) == [1]
    game = BudgetedGame(inner, 3)
    assert game.permits([1])
    assert not game.permits([2])
    assert game.players == inner.players


def test_a_budget_is_at_most_the_number_of_coalitions():
    players = FunctionGame(12, len).players
    assert capped_budget(10**15, players) == 4096
    assert capped_budget(500, players) == 500
    assert capped_budget(10**15, [*players, replace(players[0], index=12, removable=False)]) == 4096
    assert capped_budget(10**15, players[:3]) == 64


def test_a_huge_budget_draws_no_more_coalitions_than_there_are():
    found = shapcut.estimate(FunctionGame(7, lambda c: c.sum(axis=1)), budget=10**15)
    assert found.evaluations <= 128
