"""Targets: what reaches them, which sizes a set can have, and selection for them."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shapcut.estimators.base import EstimationProblem
from shapcut.estimators.exact import ExactEstimator
from shapcut.estimators.surrogate import SurrogateEstimator
from shapcut.game.budget import BudgetedGame
from shapcut.game.coalitions import Player, without
from shapcut.game.game import FunctionGame
from shapcut.game.target import RestrictedGame, Target
from shapcut.selection.base import SelectionProblem
from shapcut.selection.ranking import RankingSelector
from shapcut.selection.search import SearchSelector
from shapcut.selection.targets import select_for
from shapcut.support.errors import InputError

costs = st.lists(st.sampled_from([0.0, 1.0, 2.0, 2.5, 7.0]), min_size=2, max_size=7)


def minimal_sets(target):
    players = range(len(target.costs))
    for size in range(1, len(target.costs)):
        for chosen in combinations(players, size):
            if target.reached(chosen) and not any(
                target.reached([other for other in chosen if other != player]) for player in chosen
            ):
                yield chosen


@given(costs=costs, share=st.floats(0.05, 1.0))
def test_sizes_are_those_of_the_sets_without_a_superfluous_player(costs, share):
    target = Target(tuple(costs), share * sum(costs) or 1.0, "t", "some target")
    found = {len(chosen) for chosen in minimal_sets(target)}
    if not found:
        with pytest.raises(InputError, match="the largest possible removal gains"):
            target.sizes()
        return
    assert target.sizes()[0] == min(found)
    assert target.sizes()[-1] >= max(found)
    assert target.typical_size() in target.sizes()


@given(costs=costs, share=st.floats(0.05, 0.8), data=st.data())
def test_a_completed_ranking_reaches_the_target_and_nothing_in_it_is_superfluous(costs, share, data):
    target = Target(tuple(costs), share * sum(costs) or 1.0, "t", "some target")
    ranking = data.draw(st.permutations(range(len(costs))))
    chosen = target.complete(ranking)
    if not target.reached(range(len(costs))):
        return
    assert target.reached(chosen)
    assert len(chosen) == 1 or all(not target.reached(set(chosen) - {player}) for player in chosen)


def test_equal_costs_are_a_plain_count():
    players = [Player(i, f"p{i}", "block", 1, removable=i != 2) for i in range(6)]
    target = Target.count(players, 3)
    assert target.is_count
    assert list(target.sizes()) == [3]
    assert target.complete([5, 2, 0, 1, 3, 4]) == (0, 1, 5)
    assert target.label == "remove-3"


def game_of(n, seed):
    rng = np.random.default_rng(seed)
    worth, pairs = rng.uniform(0.1, 1.0, n), np.triu(rng.normal(0.0, 0.1, (n, n)), 1)

    def value(rows):
        absent = (~rows).astype(np.float64)
        return -absent @ worth - np.einsum("ri,ij,rj->r", absent, pairs, absent)

    return FunctionGame(n, value)


@pytest.mark.parametrize("seed", range(3))
def test_with_all_sets_known_the_search_finds_the_best_that_reaches_the_target(seed):
    n, rng = 7, np.random.default_rng(seed)
    game = game_of(n, seed)
    sizes = rng.choice([1.0, 2.0, 3.0], size=n)
    target = Target(tuple(sizes.tolist()), 0.4 * float(sizes.sum()), "t", "a cost")
    found = ExactEstimator().estimate(EstimationProblem(game, 2**n, rng))
    plan = select_for(SearchSelector(), found, target, game=game, budget=0, rng=rng)
    sets = [
        chosen for size in range(1, n) for chosen in combinations(range(n), size) if target.reached(chosen)
    ]
    assert target.reached(plan.removed)
    assert plan.measured_value == pytest.approx(game.values(without(n, sets)).max())


@pytest.mark.parametrize("selector", [SearchSelector(), RankingSelector()], ids=lambda s: s.name)
def test_for_equal_costs_the_selector_is_asked_as_ever(selector):
    game = game_of(9, 1)

    def run(choose):
        rng, counted = np.random.default_rng(3), BudgetedGame(game, 80)
        found = SurrogateEstimator().estimate(EstimationProblem(counted, 80, rng, n_remove=3))
        return choose(found, counted, rng)

    def plainly(found, counted, rng):
        left = counted.remaining
        return selector.select(SelectionProblem(found, game.players, 3, game=counted, budget=left, rng=rng))

    def for_target(found, counted, rng):
        target, left = Target.count(game.players, 3), counted.remaining
        return select_for(selector, found, target, game=counted, budget=left, rng=rng)

    assert run(plainly) == run(for_target)


def test_a_ranking_is_followed_until_the_target_is_reached():
    game = FunctionGame(4, lambda rows: -((~rows) @ np.array([1.0, 2.0, 3.0, 4.0])))
    rng = np.random.default_rng(0)
    found = ExactEstimator().estimate(EstimationProblem(game, 16, rng))
    target = Target((1.0, 5.0, 1.0, 5.0), 6.0, "t", "a cost")
    plan = select_for(RankingSelector(), found, target, game=game, budget=0, rng=rng)
    assert plan.removed == (0, 1)
    assert plan.measured_value == -3.0


@pytest.mark.parametrize("seed", range(3))
def test_a_smaller_cut_stays_within_the_larger(seed):
    game = game_of(10, seed)
    rng, counted = np.random.default_rng(seed), BudgetedGame(game, 150)
    found = SurrogateEstimator().estimate(EstimationProblem(counted, 80, rng, n_remove=5))
    whole = Target.count(game.players, 5)
    large = select_for(SearchSelector(), found, whole, game=counted, budget=30, rng=rng)
    target = Target.count(game.players, 2).within(large.removed)
    small = select_for(SearchSelector(), found, target, game=counted, budget=30, rng=rng)
    assert len(small.removed) == 2
    assert set(small.removed) < set(large.removed)


def test_what_may_not_go_together_is_refused_before_any_work():
    game = game_of(5, 0)
    game.permits = lambda absent: 0 not in absent
    target = Target((9.0, 1.0, 1.0, 1.0, 1.0), 8.0, "t", "a cost")
    with pytest.raises(InputError, match="can be removed from this model"):
        target.require_permitted(game.permits, np.random.default_rng(0))
    restricted = RestrictedGame(game, target)
    assert not restricted.permits([1, 2])
