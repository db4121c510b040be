"""Moves between sets of parts of blocks stay permitted and reach what single exchanges cannot."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shapcut.estimators.base import EstimationProblem
from shapcut.estimators.polynomial import Polynomial
from shapcut.estimators.surrogate import SurrogateEstimator
from shapcut.game.coalitions import Player, absent_players, keys, without
from shapcut.game.game import FunctionGame
from shapcut.game.target import Target
from shapcut.selection.part_moves import climb_permitted, come_in_parts, exchanges
from shapcut.selection.search import SearchSelector
from shapcut.selection.targets import select_for

BLOCKS = 6
N = 2 * BLOCKS


def runs_of_even_length(absent):
    """Whether what stays alternates: attention, MLP, attention, MLP ..."""
    kept = [part % 2 for part in range(N) if part not in absent]
    return len(kept) % 2 == 0 and kept == [0, 1] * (len(kept) // 2)


def polynomial(seed):
    rng = np.random.default_rng(seed)
    pairs = np.triu(rng.normal(0.0, 0.1, (N, N)), 1)
    return Polynomial(0.0, -rng.uniform(0.1, 1.0, N), pairs + pairs.T)


@given(
    absent=st.sets(st.integers(0, N - 1), min_size=1, max_size=N - 2),
    fixed=st.sets(st.integers(0, N - 1), max_size=3),
)
def test_exchanges_keep_the_size_and_what_must_stay(absent, fixed):
    coalition = without(N, [sorted(absent)])[0]
    candidates = np.array([part for part in range(N) if part not in fixed], dtype=np.int64)
    found = exchanges(coalition, candidates)
    assert len(set(keys(found))) == len(found)
    for row in found:
        gone = set(absent_players(row))
        assert len(gone) == len(absent)
        assert gone - absent <= set(candidates.tolist())
        assert 1 <= len(gone - absent) <= 2
        if len(gone - absent) == 2:
            for pair in (gone - absent, absent - gone):
                assert max(pair) - min(pair) == 1
    others = set(candidates.tolist()) - absent
    singles = {frozenset(absent - {back} | {new}) for back in absent for new in others}
    assert singles <= {frozenset(absent_players(row)) for row in found}


@pytest.mark.parametrize("seed", range(4))
def test_the_ascent_moves_pairs_and_shifts_runs(seed):
    values, start = polynomial(seed), without(N, [[2, 3, 4, 5]])[0]
    end = climb_permitted(values, start, np.arange(N), runs_of_even_length)
    assert runs_of_even_length(absent_players(end))
    around = exchanges(end, np.arange(N))
    allowed = [row for row in around if runs_of_even_length(absent_players(row))]
    assert allowed
    assert values.predict(np.array(allowed)).max() <= values.predict(end[None])[0] + 1e-12
    assert values.predict(end[None])[0] >= values.predict(start[None])[0]


def test_single_exchanges_alone_would_be_stuck():
    values = Polynomial(
        0.0, -np.array([9.0, 9.0, 9.0, 9.0, 5.0, 5.0, *[9.0] * 4, 1.0, 1.0]), np.zeros((N, N))
    )
    end = climb_permitted(values, without(N, [[4, 5]])[0], np.arange(N), runs_of_even_length)
    assert set(absent_players(end)) == {10, 11}


def test_players_are_parts_if_they_are_of_several_kinds():
    parts = [Player(index, f"p{index}", ("attention", "mlp")[index % 2], 1) for index in range(4)]
    assert come_in_parts(parts)
    assert not come_in_parts(parts[::2])
    grouped = [Player(index, f"p{index}", ("attention", "mlp")[index % 2], 1, group=0) for index in range(4)]
    assert not come_in_parts(grouped)


class Blocks(FunctionGame):
    """Twelve blocks of an attention and a larger MLP: half a block is worth nearly as much as all of it.

    Blocks also stand in for their neighbours.
    """

    def __init__(self, seed):
        rng = np.random.default_rng(seed)
        self.worth, self.together = rng.uniform(0.5, 1.5, 12), rng.uniform(0.0, 1.0, 11)
        super().__init__(24, self._value)
        self._players = tuple(
            Player(2 * block + place, f"layers.{block}.{kind}", kind, size)
            for block in range(12)
            for place, (kind, size) in enumerate((("attention", 1), ("mlp", 3)))
        )

    def _value(self, coalitions):
        halves = (~coalitions).reshape(-1, 12, 2)
        gone = halves.any(axis=2)
        lost = gone @ self.worth + 0.2 * halves.all(axis=2).sum(axis=1)
        return np.asarray(-lost - (gone[:, :-1] & gone[:, 1:]) @ self.together, dtype=np.float64)


@pytest.mark.parametrize("seed", range(3))
def test_a_cut_of_parts_is_no_worse_than_one_of_blocks(seed):
    game = Blocks(seed)
    costs = tuple(float(player.parameters) for player in game.players)
    target = Target(costs, 16.0, "parameters", "16 parameters")
    rng = np.random.default_rng(seed)
    contributions = SurrogateEstimator().estimate(EstimationProblem(game, 60, rng, 8))
    plan = select_for(SearchSelector(), contributions, target, game=game, budget=90, rng=rng)
    of_blocks = [[2 * b + part for b in some for part in (0, 1)] for some in combinations(range(12), 4)]
    best = float(game.values(without(24, of_blocks)).max())
    assert target.reached(plan.removed)
    assert plan.measured_value is not None
    assert plan.measured_value >= best
