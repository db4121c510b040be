"""Groups of players: whatever draws, swaps or chooses takes equally many of each."""

from dataclasses import replace
from itertools import product
from math import comb

import numpy as np
import pytest
from grouped import GroupedGame, grouped_players, per_group
from hypothesis import given, settings
from hypothesis import strategies as st

from shapcut.baselines.evolutionary import EvolutionarySelector
from shapcut.baselines.greedy import GreedySelector, greedy_evaluations
from shapcut.estimators.base import EstimationProblem
from shapcut.estimators.polynomial import Polynomial
from shapcut.estimators.sampling import (
    GuidedSampler,
    ShapleySampler,
    StratifiedSampler,
    siblings,
    siblings_by_group,
)
from shapcut.estimators.surrogate import SurrogateEstimator
from shapcut.game.budget import BudgetedGame
from shapcut.game.coalitions import distinct, without
from shapcut.game.contributions import Contributions
from shapcut.game.feasible import permitted_sets, require_permitted
from shapcut.game.groups import Groups, layer_parameters, layer_sizes
from shapcut.game.target import Target
from shapcut.selection.base import SelectionProblem
from shapcut.selection.ranking import RankingSelector
from shapcut.selection.search import SearchSelector, climb, swaps
from shapcut.support.errors import InputError

SHAPES = st.tuples(st.integers(2, 6), st.integers(3, 7))


def all_equal(coalitions, n_groups, each=None):
    counts = per_group(coalitions, n_groups)
    assert (counts == counts[:, :1]).all()
    if each is not None:
        assert (counts == each).all()
    return counts[:, 0]


def unknown(n):
    """Contributions without any measurement."""
    return Contributions(
        values=np.full(n, np.nan),
        standard_errors=np.full(n, np.nan),
        weighting="",
        estimator="none",
        full_value=None,
        coalitions=np.empty((0, n), dtype=np.bool_),
        measured=np.empty(0),
    )


@given(SHAPES, st.integers(0, 2), st.integers(0, 2), st.integers(0, 10**6))
def test_samplers(shape, kind, generations, seed):
    rng, n = np.random.default_rng(seed), shape[0] * shape[1]
    fixed = [int(rng.integers(n))]
    damage = rng.exponential(size=n)
    sampler = [
        StratifiedSampler(generations=generations),
        ShapleySampler(generations),
        GuidedSampler(damage, 2 * shape[0], generations=generations),
    ][kind]
    coalitions = sampler.sample(grouped_players(*shape, fixed), 20, rng)
    counts = all_equal(coalitions, shape[0])
    assert coalitions[:, fixed].all()
    assert counts.max() <= shape[1] - 1
    assert len(distinct(coalitions)) == len(coalitions) > 0


def test_the_guided_sampler_leans_to_the_target_and_to_harmless_players():
    damage = np.tile([0.1, 5.0, 0.2, 5.0, 0.1, 0.3], 4)
    drawn = GuidedSampler(damage, 8).draw(grouped_players(4, 6), 400, np.random.default_rng(0))
    counts = all_equal(drawn, 4)
    assert set(counts.tolist()) == {1, 2}
    assert (counts == 2).mean() >= 0.5
    absent = (~drawn).mean(axis=0)
    assert absent[1::2][[0, 1]].max() < 0.05 * absent[::2].min()


def test_strata_are_scaled_to_the_groups():
    drawn = StratifiedSampler().draw(grouped_players(4, 16), 60, np.random.default_rng(0))
    assert set(all_equal(drawn, 4).tolist()) == {1, 2, 4, 6, 7}


def test_siblings_keep_earlier_groups_and_redraw_later_ones():
    sets = siblings_by_group(np.zeros((8, 6)), np.full(50, 3), 2, np.random.default_rng(0))
    assert (sets.sum(axis=2) == 3).all()
    family = sets.reshape(50, 4, 8, 6)
    assert (family[:, 0, :4] == family[:, 1, :4]).all()
    assert (family[:, 0, :6] == family[:, 2, :6]).all()
    assert (family[:, 1, :6] == family[:, 3, :6]).all()
    assert (family[:, 0, 4:] != family[:, 1, 4:]).any(axis=(1, 2)).all()
    assert (family[:, 0, 6:] != family[:, 2, 6:]).any(axis=(1, 2)).mean() > 0.9


def test_each_group_is_drawn_as_it_would_be_alone():
    weights = np.log([[1.0, 2.0, 3.0, 4.0], [4.0, 1.0, 1.0, 1.0]])
    rng = np.random.default_rng(0)
    together = siblings_by_group(weights, np.full(4_000, 2), 1, rng).mean(axis=0)
    for group in (0, 1):
        alone = siblings(weights[group], np.full(8_000, 2), 0, rng).mean(axis=0)
        assert together[group] == pytest.approx(alone, abs=0.025)


def test_shorter_groups_are_filled_up():
    players = [replace(player, group=int(player.index >= 5)) for player in grouped_players(1, 8)]
    drawn = GuidedSampler(np.ones(8), 4, generations=0).draw(players, 300, np.random.default_rng(0))
    assert ((~drawn[:, :5]).sum(axis=1) == (~drawn[:, 5:]).sum(axis=1)).all()
    assert (~drawn).mean(axis=0).min() > 0.1


@given(SHAPES, st.integers(1, 2), st.integers(0, 10**6))
def test_permitted_sets(shape, each, seed):
    rng, players = np.random.default_rng(seed), grouped_players(*shape)
    fixed = int(rng.integers(len(players)))
    n, groups = len(players), Groups.of(players)
    found = permitted_sets(range(n), each * shape[0], lambda s: fixed not in s, 12, rng, groups=groups)
    assert len(set(found)) == len(found) > 0
    all_equal(without(n, found), shape[0], each)
    assert all(fixed not in one for one in found)
    assert permitted_sets(range(n), each * shape[0] + 1, lambda s: True, 12, rng, groups=groups) == []


def test_a_single_permitted_set_is_found():
    groups, only = Groups.of(grouped_players(3, 5)), (0, 3, 6, 7, 10, 14)
    rng = np.random.default_rng(0)
    assert permitted_sets(range(15), 6, lambda s: s == only, 4, rng, groups=groups) == [only]
    everything = permitted_sets(range(15), 6, lambda s: True, 10**4, rng, groups=groups)
    assert len(everything) == comb(5, 2) ** 3
    with pytest.raises(InputError, match=r"no set of 6 players .* try one of the sizes \[3\]"):
        require_permitted(range(15), 6, lambda s: len(s) == 3, rng, groups=groups)


@given(SHAPES, st.integers(0, 10**6))
def test_swaps_stay_within_a_group(shape, seed):
    rng, players = np.random.default_rng(seed), grouped_players(*shape)
    n, groups = len(players), Groups.of(players)
    pairs = rng.normal(size=(n, n))
    polynomial = Polynomial(0.0, rng.normal(size=n), np.triu(pairs, 1) + np.triu(pairs, 1).T)
    start = without(n, [groups.draw(2 * shape[0], rng)])[0]
    end = climb(polynomial, start, np.arange(n), groups)
    around = swaps(polynomial, end, np.arange(n), 10**6, groups)
    all_equal(np.vstack([end, around]), shape[0], 2)
    assert len(around) == shape[0] * 2 * (shape[1] - 2)
    assert (polynomial.predict(around) <= polynomial.predict(end[None]) + 1e-9).all()


@given(SHAPES, st.integers(0, 10**6))
def test_a_ranking_takes_the_lowest_of_each_group(shape, seed):
    game = GroupedGame(*shape, seed=seed)
    contributions = replace(unknown(game.n_players), values=game.damage)
    problem = SelectionProblem(
        contributions, game.players, 2 * shape[0], rng=np.random.default_rng(0), game=game
    )
    removed = RankingSelector().select(problem).removed
    by_group = game.damage.reshape(shape)
    lowest = [np.sort(np.argsort(row)[:2]) + place * shape[1] for place, row in enumerate(by_group)]
    assert list(removed) == np.concatenate(lowest).tolist()


@pytest.mark.parametrize("seed", range(3))
def test_a_ranking_that_is_not_permitted_is_repaired_within_groups(seed):
    game = GroupedGame(3, 5, seed)
    contributions = replace(unknown(15), values=game.damage)
    problem = SelectionProblem(contributions, game.players, 6, rng=np.random.default_rng(0), game=game)
    lowest = RankingSelector().select(problem).removed
    game.permits = lambda absent: tuple(sorted(absent)) != lowest
    removed = RankingSelector().select(problem).removed
    all_equal(without(15, [removed]), 3, 2)
    assert len(set(removed) - set(lowest)) == 1


@settings(max_examples=15, deadline=None)
@given(SHAPES, st.integers(0, 10**6))
def test_the_default_method(shape, seed):
    game, rng = GroupedGame(*shape, seed=seed), np.random.default_rng(seed)
    n, n_remove = game.n_players, 2 * shape[0]
    counted = BudgetedGame(game, 4 * n)
    contributions = SurrogateEstimator().estimate(EstimationProblem(counted, 4 * n, rng, n_remove))
    drawn = game.asked[n + 1 :] if len(game.asked) > n else game.asked
    all_equal(drawn[(~drawn).sum(axis=1) > 1], shape[0])
    asked = len(game.asked)
    problem = SelectionProblem(
        contributions, game.players, n_remove, rng=rng, game=counted, budget=counted.remaining
    )
    plan = SearchSelector().select(problem)
    all_equal(np.vstack([game.asked[asked:], without(n, [plan.removed])]), shape[0], 2)


@pytest.mark.parametrize("selector", [GreedySelector(), EvolutionarySelector(generations=3)])
@pytest.mark.parametrize("seed", range(3))
def test_baselines(selector, seed):
    game = GroupedGame(3, 6, seed)
    budget = 500
    problem = SelectionProblem(
        unknown(18), game.players, 6, rng=np.random.default_rng(0), game=game, budget=budget
    )
    all_equal(without(18, [selector.select(problem).removed]), 3, 2)


def test_greedy_takes_the_best_of_each_group_in_turns():
    game = GroupedGame(3, 6)
    game.pairs[:] = 0.0
    budget = greedy_evaluations(18, 6, 3)
    assert budget == 3 * (6 + 5)
    problem = SelectionProblem(
        unknown(18), game.players, 6, rng=np.random.default_rng(0), game=game, budget=budget
    )
    removed = GreedySelector().select(problem).removed
    lowest = [np.sort(np.argsort(row)[:2]) + 6 * place for place, row in enumerate(game.damage.reshape(3, 6))]
    assert list(removed) == np.concatenate(lowest).tolist()
    assert len(game.asked) == budget


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (0, "choose 4 to 20"),
        (21, "choose 4 to 20"),
        (
            10,
            "10 of 24 players: each of 4 groups of players must lose equally many; give 8 or 12",
        ),
    ],
)
def test_a_number_that_groups_cannot_share_is_refused(number, message):
    game = GroupedGame(4, 6)
    with pytest.raises(InputError, match=message):
        SelectionProblem(unknown(24), game.players, number, rng=np.random.default_rng(0), game=game)


def test_a_game_permits_only_equal_losses():
    game = GroupedGame(2, 3, fixed=[0])
    assert game.permits([])
    assert game.permits([1, 4])
    assert not game.permits([1])
    assert not game.permits([1, 2])
    assert not game.permits([0, 4])


def test_players_with_and_without_a_group_are_refused():
    first, *others = grouped_players(2, 3)
    with pytest.raises(InputError, match="player 0 has no group, but others have one"):
        Groups.of([replace(first, group=None), *others])


@given(SHAPES, st.floats(0.01, 0.6), st.integers(0, 10**6))
def test_a_sum_of_costs_becomes_a_number_that_always_reaches_it(shape, share, seed):
    players = grouped_players(*shape)
    rng = np.random.default_rng(seed)
    costs = tuple(rng.integers(5, 9, size=len(players)).astype(float).tolist())
    sums = Target(costs, share * sum(costs), "parameters", "at most so many")
    groups = Groups.of(players)
    try:
        target = sums.by_group(groups)
    except InputError as error:
        assert "the largest possible removal" in str(error)  # noqa: PT017 - one of two outcomes
        return
    each, uneven = divmod(target.number, len(groups))
    assert uneven == 0
    cheapest = [np.sort(row)[:each].sum() for row in np.array(costs).reshape(shape)]
    assert sums.needed <= sum(cheapest) * (1 + 1e-6)
    assert list(target.sizes()) == [target.number]
    if each > 1:
        fewer = [np.sort(row)[: each - 1].sum() for row in np.array(costs).reshape(shape)]
        assert sum(fewer) < sums.needed


def test_all_sets_of_two_groups():
    groups = Groups.of(grouped_players(2, 3))
    found = permitted_sets(range(6), 2, lambda s: True, 100, np.random.default_rng(0), groups=groups)
    assert sorted(found) == sorted(product(range(3), range(3, 6)))


def test_the_groups_of_a_router_are_one_layer():
    """Two layers with three router groups of four experts each."""
    players = [
        replace(player, name=f"layers.{player.index // 12}.experts.{player.index % 12}")
        for player in grouped_players(6, 4)
    ]
    groups = Groups.of(players)
    assert len(groups) == 6
    assert groups.layers_run(np.ones((3, 24), dtype=np.bool_)).tolist() == [2, 2, 2]
    assert layer_parameters(players) == [120, 120]
    assert layer_sizes(players) == {"layers.0.experts": 12, "layers.1.experts": 12}
    assert layer_sizes([replace(player, group=None) for player in players]) == {}
