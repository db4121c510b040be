"""Selection where most sets may not be removed: one is found, or a line says that there is none."""

from itertools import combinations
from math import comb

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shapcut.estimators.base import EstimationProblem
from shapcut.estimators.surrogate import SurrogateEstimator
from shapcut.game.budget import BudgetedGame
from shapcut.game.coalitions import without
from shapcut.game.feasible import permitted_sets, require_permitted
from shapcut.game.game import FunctionGame
from shapcut.selection.base import SelectionProblem
from shapcut.selection.ranking import RankingSelector
from shapcut.selection.search import SearchSelector
from shapcut.support.errors import InputError


def whole_periods(period):
    """Kinds repeat with a period, and those of the layers that stay must be whole periods of it, too."""

    def permits(absent, n):
        kept = [index % period for index in range(n) if index not in set(absent)]
        return len(kept) % period == 0 and kept == [index % period for index in range(len(kept))]

    return permits


def game_of(n, permits, seed=0):
    rng = np.random.default_rng(seed)
    linear = rng.uniform(0.1, 1.0, n)
    game = FunctionGame(n, lambda coalitions: -(~coalitions).astype(np.float64) @ linear)
    game.permits = lambda absent: permits(absent, n)
    return game


@settings(max_examples=40, deadline=None)
@given(n=st.integers(3, 9), n_remove=st.integers(1, 6), seed=st.integers(0, 10**6), share=st.floats(0.0, 1.0))
def test_of_few_sets_every_permitted_one_is_found(n, n_remove, seed, share):
    rng = np.random.default_rng(seed)
    allowed = {s for s in combinations(range(n), n_remove) if rng.random() < share}
    found = permitted_sets(range(n), n_remove, lambda s: tuple(sorted(s)) in allowed, comb(9, 4), rng)
    assert len(set(found)) == len(found)
    assert set(found) == allowed


@pytest.mark.parametrize(("n", "period", "n_remove"), [(32, 8, 8), (32, 8, 16), (64, 4, 24)])
def test_among_millions_of_sets_whole_periods_are_found(n, period, n_remove):
    game = game_of(n, whole_periods(period))
    found = permitted_sets(range(n), n_remove, game.permits, 5, np.random.default_rng(0))
    assert len(found) == 5
    assert all(len(set(each)) == n_remove and game.permits(each) for each in found)


def test_a_size_that_no_permitted_set_has_is_refused_in_one_line_with_those_that_have_one():
    game = game_of(16, whole_periods(4))
    with pytest.raises(InputError, match=r"no set of 5 players .*\[4, 8\]") as refusal:
        require_permitted(range(16), 5, game.permits, np.random.default_rng(0))
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("selector", [SearchSelector(), RankingSelector()])
@pytest.mark.parametrize("seed", range(3))
def test_selectors_remove_whole_periods_where_nothing_else_is_permitted(selector, seed):
    game = game_of(24, whole_periods(4), seed)
    rng = np.random.default_rng(seed)
    counted = BudgetedGame(game, 120)
    contributions = SurrogateEstimator().estimate(EstimationProblem(counted, 60, rng, n_remove=8))
    plan = selector.select(
        SelectionProblem(contributions, game.players, 8, game=counted, budget=counted.remaining, rng=rng)
    )
    assert game.permits(plan.removed)
    assert len(plan.removed) == 8
    chance = permitted_sets(range(24), 8, game.permits, 20, rng)
    value = game.values(without(24, [plan.removed]))[0]
    assert value >= np.median(game.values(without(24, chance)))


def test_the_ranking_keeps_its_set_where_that_is_permitted():
    game = game_of(6, lambda absent, n: True)
    found = SurrogateEstimator().estimate(
        EstimationProblem(BudgetedGame(game, 20), 12, np.random.default_rng(0), n_remove=2)
    )
    plan = RankingSelector().select(SelectionProblem(found, game.players, 2, rng=np.random.default_rng(0)))
    assert set(plan.removed) == set(np.argsort(found.values)[:2].tolist())
