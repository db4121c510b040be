"""The search over blocks, MoE parts and experts."""

from dataclasses import replace

import numpy as np
import pytest
from mixed import MixedGame, mixed_players

from shapcut.estimators.base import EstimationProblem
from shapcut.estimators.mixed import MixedEstimator
from shapcut.estimators.surrogate import SurrogateEstimator
from shapcut.game.budget import BudgetedGame
from shapcut.game.coalitions import absent_players, without
from shapcut.game.groups import Groups, equal_by_group, layer_parameters, layer_sizes
from shapcut.game.kinds import KindGame, kinds_of
from shapcut.game.mixed import mixed_layers, mixed_summary
from shapcut.game.target import Target
from shapcut.selection.mixed import MixedSelector, _Search
from shapcut.selection.mixed_cuts import require_mixed_cut
from shapcut.selection.race import race
from shapcut.selection.targets import select_for
from shapcut.support.errors import InputError


def target_of(game, share):
    costs = tuple(float(player.parameters) for player in game.players)
    return Target(costs, share * sum(costs), f"ratio-{share}", f"{share} of the parameters")


def searched(game, target, budget=120, seed=0, finals=()):
    outer = BudgetedGame(game, budget)
    rng = np.random.default_rng(seed)
    contributions = MixedEstimator().estimate(EstimationProblem(outer, budget, rng, target.typical_size()))
    plan = select_for(
        MixedSelector(), contributions, target, game=outer, budget=outer.remaining, finals=finals, rng=rng
    )
    return plan, contributions, outer


def value(game, absent):
    return float(game.values(without(game.n_players, [absent]))[0])


@pytest.mark.parametrize(("seed", "share"), [(1, 0.1), (2, 0.3), (3, 0.6)])
def test_a_plan_reaches_the_target_and_can_be_removed(seed, share):
    game = MixedGame(seed=seed)
    target = target_of(game, share)
    plan, _, outer = searched(game, target)
    assert target.reached(plan.removed)
    assert game.permits(plan.removed)
    assert plan.measured_value == pytest.approx(value(game, plan.removed))
    assert outer.remaining >= 0
    assert plan.layers == layer_sizes(game.players)


@pytest.mark.parametrize(("seed", "share"), [(4, 0.15), (5, 0.25), (6, 0.4)])
def test_no_worse_than_the_best_cut_of_each_kind_and_near_the_best_of_all(seed, share):
    game = MixedGame(3, 3, seed=seed)
    target = target_of(game, share)
    plan, contributions, _ = searched(game, target, budget=150)
    cuts = [cut for cut in game.all_cuts() if target.reached(cut)]
    values = dict(zip(cuts, game.values(without(game.n_players, cuts)).tolist(), strict=True))
    found = values[plan.removed]
    assert found >= sorted(values.values())[-min(3, len(values))] - 1e-9
    for kind, _known in contributions.kinds:
        members = [set(some) for some in kind.sets]
        alone = [cut for cut in cuts if set().union(*(one for one in members if one <= set(cut))) == set(cut)]
        assert all(found >= values[cut] - 1e-9 for cut in alone)


def test_the_kind_whose_best_cut_costs_least_is_searched_once_more(monkeypatch):
    searched_alone, losses = [], {}
    search = _Search._search_alone

    def recorded(self, name, budget, finals=()):
        if len(searched_alone) == len(self._kinds):
            losses.update({each: self.known[cut] for each, cut in self.alone.items()})
        searched_alone.append((name, budget))
        return search(self, name, budget, finals)

    monkeypatch.setattr(_Search, "_search_alone", recorded)
    game = MixedGame(4, 3, seed=7)
    searched(game, target_of(game, 0.3), budget=200)
    *first, (again, budget) = searched_alone
    assert sorted(name for name, _ in first) == sorted({name for name, _ in first})
    assert again == min(losses, key=losses.get)
    assert budget > max(each for _, each in first)


@pytest.mark.parametrize("seed", [7, 8])
def test_the_leading_kind_stays_in_the_finals_with_the_winner_of_its_own(seed, monkeypatch):
    """On the text of the finals other cuts are better than on that of the search."""
    races = []

    def recorded(leaders, finals, kept):
        races.append([absent_players(leaders[row]) for row in kept])
        return race(leaders, finals, kept)

    alone = _Search._search_alone
    winners = []

    def noted(self, name, budget, finals=()):
        found = alone(self, name, budget, finals)
        winners.extend([found] if finals else [])
        return found

    monkeypatch.setattr("shapcut.selection.mixed.race", recorded)
    monkeypatch.setattr(_Search, "_search_alone", noted)
    game = MixedGame(4, 3, seed=seed)
    searched(game, target_of(game, 0.3), budget=200, finals=[MixedGame(4, 3, seed=seed + 50)])
    assert races == [winners]


def test_an_absent_part_is_never_measured_with_some_of_its_experts():
    game = MixedGame()
    searched(game, target_of(game, 0.3))
    for row in game.asked:
        for layer in game.layers:
            if not row[layer.owner]:
                assert not row[list(layer.experts)].any()


def test_kinds_are_games_of_their_own():
    game = MixedGame(3, 2)
    block, moe, expert = kinds_of(game.players, game.permits)
    assert [kind.name for kind in (block, moe, expert)] == ["block", "moe", "expert"]
    assert [player.parameters for player in block.players] == [90] * 3
    assert [player.parameters for player in moe.players] == [50] * 3
    assert Groups.of(expert.players).sizes == (2, 2, 2)
    blocks = KindGame(game, block)
    row = np.array([[True, False, True]])
    assert np.flatnonzero(~blocks.whole(row)[0]).tolist() == [4, 5, 6, 7]
    assert blocks.values(row)[0] == value(game, [4, 5, 6, 7])
    assert not blocks.permits([0, 1, 2])
    without_parts = kinds_of(game.players, lambda absent: False)
    assert [kind.name for kind in without_parts] == ["block", "expert"]


def test_groups_and_layers_of_parts_and_experts():
    players = mixed_players(2, 3)
    groups = Groups.of(players)
    assert groups.labels.tolist() == [-1, -1, 0, 0, 0, -1, -1, 1, 1, 1]
    assert groups.sizes == (3, 3)
    assert groups.layers_run(without(10, [(), (0, 1, 2, 3, 4), (2, 7)])).tolist() == [4, 2, 4]
    assert layer_parameters(players) == [110, 110]
    assert layer_sizes(players)["layers.1.mlp.experts"] == 3
    assert equal_by_group(players, [1, 2, 3, 4])
    assert equal_by_group(players, [1, 2, 3, 4, 8])
    assert equal_by_group(players, [0, 2, 7])
    assert not equal_by_group(players, [1, 2, 3])
    assert not equal_by_group(players, [2])
    assert mixed_layers([player for player in players if player.group is None]) == ()


def test_a_summary_names_each_kind_with_its_parameters():
    players = tuple(replace(player, parameters=player.parameters * 1000) for player in mixed_players(4, 4))
    absent = [*range(6), *range(7, 12), 14, 20]
    assert mixed_summary(players, absent) == (
        "1 block (0.13 M), 1 MoE part (0.09 M), 1 of 4 experts of each other layer (0.04 M)"
    )
    assert mixed_summary(players, [2, 8, 14, 20]) == "1 of 4 experts of each layer (0.08 M)"


def test_what_cannot_be_done_is_refused():
    game = MixedGame()
    with pytest.raises(InputError, match="found no blocks, MoE parts and experts"):
        require_mixed_cut(game, target_of(game, 0.999))
    require_mixed_cut(game, target_of(game, 0.3))
    target, rng = target_of(game, 0.3), np.random.default_rng(0)
    with pytest.raises(InputError, match="needs a budget of at least"):
        MixedEstimator().estimate(EstimationProblem(game, 20, rng, 3))
    contributions = SurrogateEstimator().estimate(EstimationProblem(FlatGame(), 40, rng, 3))
    with pytest.raises(InputError, match="needs the estimator 'mixed'"):
        select_for(MixedSelector(), contributions, target, game=game, budget=9, rng=rng)
    with pytest.raises(InputError, match="is for --granularity mixed"):
        MixedEstimator().estimate(EstimationProblem(FlatGame(), 40, rng, 3))
    with pytest.raises(ValueError, match="batch=0"):
        MixedSelector(batch=0)


class FlatGame(MixedGame):
    """The same without groups."""

    @property
    def players(self):
        return tuple(replace(player, group=None) for player in self._players)

    def permits(self, absent):
        return True
