"""Main effects: what they recover, what they say of players nobody measured, and thousands of players."""

import numpy as np
import pytest
from grouped import GroupedGame, grouped_players, per_group

from shapcut.estimators import surrogate as surrogate_module
from shapcut.estimators.base import EstimationProblem
from shapcut.estimators.main_effects import MainEffects
from shapcut.estimators.quadratic import QuadraticSurrogate
from shapcut.estimators.surrogate import SurrogateEstimator
from shapcut.game.budget import BudgetedGame
from shapcut.game.coalitions import without
from shapcut.game.groups import Groups
from shapcut.selection.base import SelectionProblem
from shapcut.selection.ranking import RankingSelector
from shapcut.selection.search import SearchSelector
from shapcut.support.errors import InputError


def drawn(n_groups, size, each, count, seed=0):
    groups, rng = Groups.of(grouped_players(n_groups, size)), np.random.default_rng(seed)
    n = n_groups * size
    return without(n, [(), *[groups.draw(each * n_groups, rng) for _ in range(count - 1)]])


def linear_values(coalitions, damage):
    return 3.0 - (~coalitions) @ damage


def test_an_exact_linear_game_is_recovered_from_enough_coalitions():
    damage = np.random.default_rng(0).exponential(size=20)
    coalitions = np.vstack([drawn(4, 5, 2, 60), drawn(4, 5, 1, 60, seed=1)])
    fitted = MainEffects().fit(coalitions, linear_values(coalitions, damage))
    # a constant may move between the players of two groups, which always lose equally many
    differences = fitted.contributions().reshape(4, 5) - damage.reshape(4, 5)
    assert np.ptp(differences, axis=1) == pytest.approx(0.0, abs=0.01)
    other = drawn(4, 5, 2, 30, seed=2)
    assert fitted.predict(other) == pytest.approx(linear_values(other, damage), abs=0.02)


def test_the_fit_is_the_posterior_mean():
    """Against the plain formula: generalised least squares of what has no prior, then shrunk effects."""
    rng = np.random.default_rng(0)
    coalitions, evidence = drawn(4, 8, 3, 14), rng.random(32)
    values = linear_values(coalitions, rng.exponential(size=32)) + rng.normal(size=14) / 4
    fitted = MainEffects(evidence).fit(coalitions, values)
    absent = (~coalitions).astype(float)
    covariance = absent @ absent.T + fitted._ratio * np.eye(14)
    fixed = np.column_stack([np.ones(14), absent.sum(axis=1), absent @ evidence])
    weights = np.linalg.inv(covariance)
    slopes = np.linalg.solve(fixed.T @ weights @ fixed, fixed.T @ weights @ values)
    effects = absent.T @ weights @ (values - fixed @ slopes) + slopes[1] + slopes[2] * evidence
    assert fitted.effects.linear == pytest.approx(effects, abs=1e-6)
    assert fitted.effects.constant == pytest.approx(slopes[0], abs=1e-6)
    half = weights - weights @ fixed @ np.linalg.inv(fixed.T @ weights @ fixed) @ fixed.T @ weights
    variance = fitted._variance * (1 - np.einsum("nk,nm,mk->k", absent, half, absent))
    assert fitted.standard_errors() == pytest.approx(np.sqrt(variance), abs=1e-6)


def test_draws_have_the_mean_and_the_spread_of_the_posterior():
    rng = np.random.default_rng(0)
    coalitions = drawn(3, 5, 2, 12)
    values = linear_values(coalitions, rng.exponential(size=15)) + rng.normal(size=12) / 3
    fitted = MainEffects().fit(coalitions, values)
    draws = np.array([fitted.draw(rng).linear for _ in range(3_000)])
    assert draws.mean(axis=0) == pytest.approx(fitted.effects.linear, abs=0.08)
    balanced = draws.reshape(-1, 3, 5) - draws.reshape(-1, 3, 5).mean(axis=2, keepdims=True)
    assert (balanced.std(axis=0).ravel() <= 1.05 * fitted._variance**0.5).all()
    assert balanced.std(axis=0).min() > 0.2 * fitted._variance**0.5


def test_evidence_ranks_the_players_that_few_coalitions_cannot_tell_apart():
    rng = np.random.default_rng(0)
    damage = rng.exponential(size=400)
    coalitions = drawn(8, 50, 12, 12)
    values = linear_values(coalitions, damage)
    with_it = MainEffects(damage + rng.normal(size=400) / 4).fit(coalitions, values).contributions()
    without_it = MainEffects().fit(coalitions, values).contributions()
    assert np.corrcoef(with_it, damage)[0, 1] > 0.9
    assert np.corrcoef(without_it, damage)[0, 1] < 0.5


def test_wrong_evidence_gets_little_weight():
    rng = np.random.default_rng(0)
    damage = rng.exponential(size=24)
    coalitions = drawn(4, 6, 2, 200)
    values = linear_values(coalitions, damage)
    fitted = MainEffects(rng.normal(size=24)).fit(coalitions, values)
    found = fitted.contributions().reshape(4, 6)
    assert np.ptp(found - damage.reshape(4, 6), axis=1).max() < 0.05


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("evidence", [None, np.full(12, np.nan), np.ones(12), np.arange(12.0)])
def test_few_coalitions_give_finite_effects(count, evidence):
    coalitions = drawn(3, 4, 1, count)
    fitted = MainEffects(evidence).fit(coalitions, np.linspace(0.0, -1.0, count))
    assert np.isfinite(fitted.contributions()).all()
    assert np.isfinite(fitted.standard_errors()).all()
    assert np.isfinite(fitted.draw(np.random.default_rng(0)).linear).all()
    assert fitted.predict(coalitions) == pytest.approx(np.linspace(0.0, -1.0, count), abs=0.6)


def test_equal_values_have_no_effects():
    coalitions = drawn(3, 4, 1, 10)
    fitted = MainEffects().fit(coalitions, np.full(10, -2.5))
    assert fitted.contributions() == pytest.approx(0.0, abs=1e-9)
    assert fitted.predict(coalitions) == pytest.approx(-2.5)


def solve(game, budget, n_remove, evidence=None, selector=None, seed=0):
    rng, counted = np.random.default_rng(seed), BudgetedGame(game, budget)
    given = None if evidence is None else lambda: evidence
    contributions = SurrogateEstimator().estimate(EstimationProblem(counted, budget, rng, n_remove, given))
    problem = SelectionProblem(
        contributions, game.players, n_remove, rng=rng, game=counted, budget=counted.remaining
    )
    return contributions, (selector or SearchSelector()).select(problem)


def test_single_absences_are_measured_where_they_take_less_than_half():
    game = GroupedGame(2, 5)
    contributions, _ = solve(game, 60, 4)
    assert isinstance(contributions.surrogate, QuadraticSurrogate)
    assert ((~contributions.coalitions).sum(axis=1) == 1).sum() == 10
    contributions, _ = solve(GroupedGame(2, 5), 40, 4)
    assert isinstance(contributions.surrogate, MainEffects)
    assert ((~contributions.coalitions).sum(axis=1) == 1).sum() == 0


def test_ungrouped_players_are_still_measured_alone():
    game = GroupedGame(2, 5)
    game._players = game._players[:0] + tuple(
        type(player)(player.index, player.name, "block", 1) for player in game.players
    )
    with pytest.raises(InputError, match="needs a budget of at least 11 coalitions, got 10"):
        solve(game, 10, 4)


def test_a_handful_of_passes_is_enough_for_an_answer():
    game = GroupedGame(4, 8)
    for budget in (1, 2, 5):
        contributions, plan = solve(game, budget, 8)
        assert contributions.evaluations <= budget
        assert (per_group(without(32, [plan.removed]), 4) == 2).all()


def test_the_search_beats_the_ranking_and_random_sets():
    game = GroupedGame(6, 20, seed=3)

    def damage(plan):
        return float(-game._value(without(120, [plan.removed]))[0])

    rng, groups = np.random.default_rng(0), Groups.of(game.players)
    random = np.mean([damage_of(game, groups.draw(30, rng)) for _ in range(20)])
    ranked = np.mean([damage(solve(game, 100, 30, selector=RankingSelector(), seed=s)[1]) for s in range(4)])
    searched = np.mean([damage(solve(game, 100, 30, seed=s)[1]) for s in range(4)])
    assert searched < ranked < random
    noisy = game.damage * rng.lognormal(sigma=0.5, size=120)
    informed = np.mean([damage(solve(game, 100, 30, evidence=noisy, seed=s)[1]) for s in range(4)])
    assert informed < searched


def damage_of(game, removed):
    return float(-game._value(without(game.n_players, [removed]))[0])


def test_thousands_of_players():
    game = GroupedGame(48, 128)
    evidence = game.damage + np.random.default_rng(1).normal(size=6144) / 2
    contributions, plan = solve(game, 40, 48 * 32, evidence)
    assert contributions.values.shape == (6144,)
    assert (per_group(without(6144, [plan.removed]), 48) == 32).all()
    assert len(game.asked) <= 40
    rows = game.asked[1:]
    assert set(per_group(rows, 48).max(axis=1)) <= set(range(1, 33))
    shared = (rows[1:, : 24 * 128] == rows[:-1, : 24 * 128]).all(axis=1)
    assert shared.sum() >= 8
    groups = Groups.of(game.players)
    random = np.mean([damage_of(game, groups.draw(1536, np.random.default_rng(s))) for s in range(3)])
    assert damage_of(game, plan.removed) < 0.5 * random


def test_the_threshold_is_the_number_of_players(monkeypatch):
    monkeypatch.setattr(surrogate_module, "MOST_PLAYERS_WITH_PAIRS", 9)
    contributions, _ = solve(GroupedGame(2, 5), 200, 4)
    assert isinstance(contributions.surrogate, MainEffects)


def first_sets(game, scores, n_remove):
    groups = Groups.of(game.players)
    return without(game.n_players, [groups.first(np.argsort(score).tolist(), n_remove) for score in scores])


def test_the_set_of_every_score_is_measured_on_all_text_and_the_best_score_is_believed():
    game = GroupedGame(4, 8)
    scores = np.vstack([-game.damage, np.arange(32.0), game.damage])
    contributions, plan = solve(game, 60, 8, scores)
    exact = contributions.coalitions[contributions.on_all_text]
    tried = first_sets(game, scores, 8)
    assert {row.tobytes() for row in tried} <= {row.tobytes() for row in exact}
    assert contributions.surrogate.evidence.tolist() == game.damage.tolist()
    assert -plan.measured_value <= min(damage_of(game, np.flatnonzero(~row)) for row in tried)


def test_a_small_budget_tries_the_first_scores_only():
    game = GroupedGame(4, 8)
    contributions, _ = solve(game, 5, 8, np.vstack([np.arange(32.0), game.damage]))
    assert contributions.evaluations <= 5
    assert contributions.surrogate.evidence.tolist() == np.arange(32.0).tolist()


def test_players_with_evidence_are_not_measured_alone():
    game = GroupedGame(2, 5)
    contributions, _ = solve(game, 200, 4, game.damage)
    assert isinstance(contributions.surrogate, MainEffects)


def test_the_set_of_a_score_races_on_further_text_however_bad_it_looked():
    game, further = GroupedGame(4, 8, seed=1), GroupedGame(4, 8, seed=2)
    scores, rng = np.vstack([game.damage, further.damage + 0.01]), np.random.default_rng(0)
    counted = BudgetedGame(game, 80)
    contributions = SurrogateEstimator().estimate(EstimationProblem(counted, 80, rng, 8, lambda: scores))
    problem = SelectionProblem(
        contributions,
        game.players,
        8,
        rng=rng,
        game=counted,
        budget=counted.remaining,
        finals=[further],
    )
    plan = SearchSelector(finalists=4).select(problem)
    (best,) = first_sets(game, scores[1:], 8)
    assert plan.removed == tuple(np.flatnonzero(~best))


def test_the_search_goes_on_for_an_exchange_in_every_group():
    game = GroupedGame(24, 4)
    problem = SelectionProblem(
        solve(game, 20, 24, game.damage)[0], game.players, 24, rng=np.random.default_rng(0)
    )
    search = SearchSelector(patience=2)._rounds(problem)
    assert search.patience == 2 + 24 // 4
