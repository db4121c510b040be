"""Samplers: what every one of them keeps, and the weights of each."""

from collections import Counter
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shapcut.estimators.sampling import (
    GuidedSampler,
    ShapleySampler,
    StratifiedSampler,
    _log_totals,
    _membership,
    not_among,
    removable,
    siblings,
)
from shapcut.game.coalitions import Player, distinct, keys
from shapcut.support.errors import InputError

PAPER_SIZES = {
    12: [11, 10, 9, 8, 7],
    30: [28, 25, 22, 20, 17],
    32: [30, 27, 24, 21, 18],
    64: [60, 54, 48, 42, 36],
}


def players(n, fixed=()):
    everyone = [Player(i, f"player {i}", "block", 1) for i in range(n)]
    return [replace(player, removable=player.index not in fixed) for player in everyone]


def samplers(n):
    damage = np.linspace(0.1, 2.0, n)
    return [StratifiedSampler(), ShapleySampler(), GuidedSampler(damage, max(2, n // 3))]


@given(st.sampled_from([12, 30, 64]), st.integers(0, 2), st.integers(0, 40), st.integers(0, 10**6))
def test_every_sampler(n, kind, budget, seed):
    fixed = np.random.default_rng(seed).choice(n, size=3, replace=False).tolist()
    sampler = samplers(n)[kind]
    coalitions = sampler.sample(players(n, fixed), budget, np.random.default_rng(seed))
    assert coalitions.shape == (budget, n)
    assert coalitions.dtype == np.bool_
    assert len(distinct(coalitions)) == budget
    assert coalitions[:, fixed].all()
    again = sampler.sample(players(n, fixed), budget, np.random.default_rng(seed))
    assert (coalitions == again).all()
    assert len(sampler.draw(players(n, fixed), 7, np.random.default_rng(seed))) == 7


@pytest.mark.parametrize("kind", [0, 1, 2])
def test_other_seeds_draw_other_coalitions(kind):
    drawn = [samplers(30)[kind].draw(players(30), 20, np.random.default_rng(seed)) for seed in (0, 1)]
    assert (drawn[0] != drawn[1]).any()


def test_fewer_are_returned_where_there_are_no_more():
    coalitions = ShapleySampler().sample(players(3), 100, np.random.default_rng(0))
    assert len(coalitions) == len(distinct(coalitions)) == 8


@pytest.mark.parametrize(("n", "sizes"), PAPER_SIZES.items())
def test_strata_are_the_papers_scaled_and_balanced(n, sizes):
    sampler = StratifiedSampler(generations=0)
    assert sampler.present_sizes(n) == sizes
    drawn = sampler.draw(players(n), 503, np.random.default_rng(0)).sum(axis=1)
    for count in (5, 100, 503):
        strata = Counter(drawn[:count].tolist())
        assert sorted(strata, reverse=True) == sizes
        assert max(strata.values()) - min(strata.values()) <= 1


def test_families_take_the_strata_in_turn():
    drawn = StratifiedSampler(generations=2).draw(players(30), 40, np.random.default_rng(0)).sum(axis=1)
    assert drawn.tolist() == 2 * [size for size in PAPER_SIZES[30] for _ in range(4)]


@pytest.mark.parametrize("seed", range(5))
def test_repeats_do_not_change_the_balance_of_sizes(seed):
    """Siblings that lack few players are often equal."""
    rng = np.random.default_rng(seed)
    strata = StratifiedSampler([30, 27, 24]).sample(players(32), 90, rng).sum(axis=1)
    assert all(abs(count - 30) <= 4 for count in Counter(strata.tolist()).values())
    guided = (~GuidedSampler(np.linspace(0.01, 1.0, 32), 9).sample(players(32), 240, rng)).sum(axis=1)
    assert 0.5 <= (guided == 9).mean() <= 0.62
    few = StratifiedSampler([11, 8]).sample(players(12), 100, rng).sum(axis=1)
    assert Counter(few.tolist()) == {11: 12, 8: 88}


def test_strata_are_uniform_within():
    drawn = StratifiedSampler([8]).draw(players(12), 6_000, np.random.default_rng(0))
    assert (drawn.sum(axis=1) == 8).all()
    assert np.abs(drawn.mean(axis=0) - 8 / 12).max() < 0.03


def test_sizes_that_no_coalition_has_are_left_out():
    sampler = StratifiedSampler([4, 3, 0, 9])
    drawn = sampler.draw(players(4, fixed=[0]), 9, np.random.default_rng(0))
    assert set(drawn.sum(axis=1).tolist()) == {3}
    assert "[4, 3, 0, 9]" in sampler.weighting


@pytest.mark.parametrize(
    ("sampler", "n", "fixed"), [(StratifiedSampler([9]), 6, []), (StratifiedSampler(), 1, [])]
)
def test_no_possible_stratum_is_an_error(sampler, n, fixed):
    with pytest.raises(InputError, match="has one of the sizes"):
        sampler.sample(players(n, fixed), 5, np.random.default_rng(0))


def test_shapley_sizes_are_uniform():
    drawn = ShapleySampler().draw(players(5, fixed=[2]), 5_000, np.random.default_rng(0))
    strata = Counter((~drawn).sum(axis=1).tolist())
    assert sorted(strata) == [0, 1, 2, 3, 4]
    assert all(abs(count / 5_000 - 0.2) < 0.03 for count in strata.values())


@pytest.mark.parametrize("largest", [1, 2, 5, 40])
def test_guided_sizes_lean_to_the_largest(largest):
    drawn = GuidedSampler(np.ones(12), largest).draw(players(12), 400, np.random.default_rng(0))
    absent = (~drawn).sum(axis=1)
    top = min(largest, 12)
    assert absent.max() == top
    assert absent.min() == min(2, top)
    assert (absent == top).mean() >= 0.5


def test_guided_prefers_harmless_players():
    damage = np.array([0.1, 5.0, 0.2, np.nan, 0.1, 0.3, np.inf, 0.2])
    drawn = GuidedSampler(damage, 3).draw(players(8), 400, np.random.default_rng(0))
    absent = (~drawn).sum(axis=0)
    assert absent[[1, 3, 6]].max() < 0.05 * absent[[0, 2, 4, 5, 7]].min()


@pytest.mark.parametrize(
    "damage",
    [
        np.zeros(12),
        np.full(12, np.nan),
        np.linspace(-1.0, 0.3, 12),
        np.linspace(-2.0, -1.0, 12),
    ],
    ids=["none", "not finite", "mostly better without", "all better without"],
)
def test_guided_finds_many_coalitions_whatever_the_damage(damage):
    coalitions = GuidedSampler(damage, 5).sample(players(12), 150, np.random.default_rng(0))
    assert len(coalitions) == 150


def test_not_among():
    rows = ShapleySampler().sample(players(4), 16, np.random.default_rng(0))
    left = not_among(rows, set(keys(rows[3:])))
    assert (left == rows[:3]).all()
    assert not_among(rows, set(keys(rows))).shape == (0, 4)


def test_removable():
    assert removable(players(5, fixed=[0, 3])).tolist() == [1, 2, 4]
    assert removable(players(2, fixed=[0, 1])).dtype == np.int64


def test_guided_families_share_a_size():
    drawn = GuidedSampler(np.ones(12), 5, generations=2).draw(players(12), 400, np.random.default_rng(0))
    absent = (~drawn).sum(axis=1).reshape(-1, 4)
    assert (absent == absent[:, :1]).all()
    assert (absent[1::2] == 5).all()
    assert set(absent[::2, 0].tolist()) == {2, 3, 4, 5}


@given(st.integers(2, 40), st.integers(0, 4), st.integers(0, 10**6), st.data())
def test_siblings_are_sets_of_one_size_that_begin_alike(n, generations, seed, data):
    sizes = np.array(data.draw(st.lists(st.integers(0, n), max_size=4)), dtype=np.int64)
    rng = np.random.default_rng(seed)
    log_weights = data.draw(st.sampled_from([0.0, 1.0, 1e3, 1e6])) * rng.uniform(-1.0, 1.0, n)
    sets = siblings(log_weights, sizes, generations, rng)
    assert sets.shape == (len(sizes) * 2**generations, n)
    assert (sets.sum(axis=1) == np.repeat(sizes, 2**generations)).all()
    for family in sets.reshape(len(sizes), 2**generations, n):
        assert len(distinct(family[:, : n - (n >> 1)])) == 1


WEIGHTS = np.log([1.0, 4.0, 0.5, 2.0, 1.0, 0.05])


def product_law(log_weights, size):
    """The probability of each set of a size, by enumeration."""
    weights = {s: np.exp(log_weights[list(s)].sum()) for s in combinations(range(len(log_weights)), size)}
    return {members: weight / sum(weights.values()) for members, weight in weights.items()}


def drawn_law(log_weights, size, begin=(), start=0):
    """The exact probability of each draw, once the players before ``start`` are decided."""
    totals = _log_totals(log_weights, size)
    law = {begin: 1.0}
    for player in range(start, len(log_weights)):
        decided = {}
        for members, probability in law.items():
            remaining = np.array(size - len(members))
            chance = float(_membership(log_weights, totals, player, remaining))
            decided[members] = probability * (1.0 - chance)
            decided[*members, player] = probability * chance
        law = {members: probability for members, probability in decided.items() if probability > 0.0}
    return law


@pytest.mark.parametrize("size", range(7))
def test_a_draw_is_proportional_to_the_product_of_weights(size):
    assert drawn_law(WEIGHTS, size) == pytest.approx(product_law(WEIGHTS, size), abs=1e-12)


@pytest.mark.parametrize("size", range(7))
@pytest.mark.parametrize("cut", [3, 5])
def test_a_twin_has_the_law_of_its_set(size, cut):
    twins = Counter()
    for members, probability in drawn_law(WEIGHTS, size).items():
        begin = tuple(player for player in members if player < cut)
        for twin, given_begin in drawn_law(WEIGHTS, size, begin, cut).items():
            twins[twin] += probability * given_begin
    assert twins == pytest.approx(product_law(WEIGHTS, size), abs=1e-12)


@pytest.mark.parametrize("log_weights", [np.zeros(6), WEIGHTS], ids=["uniform", "weighted"])
def test_each_sibling_follows_the_law_of_an_independent_draw(log_weights):
    families = 6000
    sets = siblings(log_weights, np.full(families, 3), 2, np.random.default_rng(0)).reshape(families, 4, 6)
    for member in range(4):
        counts = Counter(tuple(np.flatnonzero(row).tolist()) for row in sets[:, member])
        expected = {s: families * p for s, p in product_law(log_weights, 3).items()}
        chi_squared = sum((counts[s] - number) ** 2 / number for s, number in expected.items())
        assert chi_squared < 43.8  # 19 degrees of freedom, 0.1 %


def test_many_coalitions_take_time_in_proportion():
    """Draws are made for all families together, and repeats found by hashing."""
    sampler = GuidedSampler(np.linspace(0.1, 2.0, 40), 12)
    calls = []

    class Counting(np.random.Generator):
        def random(self, size=None, **options):
            calls.append(size)
            return super().random(size, **options)

    coalitions = sampler.sample(players(40), 100_000, Counting(np.random.PCG64(0)))
    assert len(coalitions) == 100_000
    assert len(calls) <= 6 * (40 + 20 + 10)


def test_siblings_need_fewer_distinct_beginnings():
    def beginnings(generations):
        drawn = StratifiedSampler(generations=generations).sample(players(30), 64, np.random.default_rng(0))
        return sum(len(np.unique(drawn[:, : end + 1], axis=0)) for end in range(30))

    assert beginnings(2) < 0.7 * beginnings(0)
