"""Samplers: what every one of them keeps, and the weights of each."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shapcut.estimators.sampling import (
    GuidedSampler,
    ShapleySampler,
    StratifiedSampler,
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


@given(st.integers(2, 40), st.integers(0, 4), st.integers(0, 10**6), st.data())
def test_siblings_are_sets_of_one_size_that_begin_alike(n, generations, seed, data):
    absent = data.draw(st.integers(0, n))
    candidates = np.arange(5, 5 + 3 * n, 3)
    sets = siblings(candidates, absent, generations, np.random.default_rng(seed))
    assert len(sets) == 2**generations
    assert all(len(set(one.tolist())) == absent and set(one) <= set(candidates.tolist()) for one in sets)
    cut = candidates[n - (n >> 1)] if n > 1 else candidates[-1] + 1
    assert len({tuple(sorted(one[one < cut])) for one in sets}) == 1


def test_each_sibling_is_uniform_among_the_sets_of_its_size():
    rng = np.random.default_rng(0)
    families = [siblings(np.arange(6), 3, 2, rng) for _ in range(6000)]
    for member in range(4):
        counts = Counter(tuple(sorted(family[member].tolist())) for family in families)
        assert len(counts) == 20
        expected = len(families) / 20
        assert sum((count - expected) ** 2 / expected for count in counts.values()) < 43.8  # chi^2(19), 0.1 %


def test_siblings_need_fewer_distinct_beginnings():
    def beginnings(generations):
        drawn = StratifiedSampler(generations=generations).sample(players(30), 64, np.random.default_rng(0))
        return sum(len(np.unique(drawn[:, : end + 1], axis=0)) for end in range(30))

    assert beginnings(2) < 0.7 * beginnings(0)
