"""Search over sets: optimal where it can be checked, and never outside what is permitted."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shapcut.comparison.contestants import parse_methods
from shapcut.estimators.base import EstimationProblem
from shapcut.estimators.exact import ExactEstimator
from shapcut.estimators.polynomial import Polynomial, Scales
from shapcut.estimators.quadratic import QuadraticSurrogate
from shapcut.estimators.surrogate import SurrogateEstimator
from shapcut.game.budget import BudgetedGame
from shapcut.game.coalitions import absent_players, all_coalitions, keys, without
from shapcut.game.game import FunctionGame
from shapcut.recipe.recipe import make_recipe
from shapcut.selection.base import SelectionProblem
from shapcut.selection.race import Heats, Outcome, race
from shapcut.selection.search import Evidence, SearchSelector, _counts, climb, swap_gains, swaps
from shapcut.support.errors import InputError

SPACED = "neighbours may not go together"


@pytest.fixture(autouse=True, scope="module")
def quick_fits():
    """Fixed prior scales: finding them takes most of a fit's time and is not what is tested here."""
    scales = Scales(player=0.1, pair=0.03, common_player=0.1, common_pair=0.01, noise=1e-5)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(QuadraticSurrogate, "_most_evident_scales", lambda self, measured, regression: scales)
        yield


def quadratic_game(n, seed, fixed=(), rule=None):
    """A game of degree two in which players stand in for each other."""
    rng = np.random.default_rng(seed)
    pairs = np.triu(rng.normal(0.0, 0.15, (n, n)), 1)
    linear = rng.uniform(0.1, 1.0, n)

    def value(coalitions):
        absent = (~coalitions).astype(np.float64)
        return -absent @ linear - np.einsum("ri,ij,rj->r", absent, pairs, absent)

    game = FunctionGame(n, value)
    allowed = {
        None: lambda absent: not set(absent) & set(fixed),
        SPACED: lambda absent: all(
            b - a > 1 for a, b in zip(sorted(absent), sorted(absent)[1:], strict=False)
        ),
    }[rule]
    game.permits = allowed
    return game


def best_value(game, n_remove):
    sets = [s for s in combinations(range(game.n_players), n_remove) if game.permits(s)]
    return game.values(without(game.n_players, sets)).max()


def value_of(game, plan):
    return game.values(without(game.n_players, [plan.removed]))[0]


@pytest.mark.parametrize(("n", "seed"), [(5, 0), (8, 1), (12, 2)])
def test_finds_the_optimum_for_each_number_removed(n, seed):
    game = quadratic_game(n, seed)
    rng = np.random.default_rng(seed)
    for n_remove in range(1, n):
        counted = BudgetedGame(game, 250)
        found = SurrogateEstimator(focus=np.inf).estimate(
            EstimationProblem(counted, 150, rng, n_remove=n_remove)
        )
        plan = SearchSelector().select(
            SelectionProblem(found, game.players, n_remove, game=counted, budget=counted.remaining, rng=rng)
        )
        assert value_of(game, plan) == pytest.approx(best_value(game, n_remove), abs=1e-9)
        assert plan.measured_value == pytest.approx(value_of(game, plan), abs=1e-9)
        assert len(plan.removed) == n_remove


@pytest.mark.parametrize("seed", [1, 6, 8, 9])
def test_what_the_end_of_a_budget_leaves_goes_to_the_best_by_mean(seed):
    damage = np.random.default_rng(seed).uniform(0.1, 1.0, 9)
    game = FunctionGame(9, lambda rows: (~rows) @ -damage)
    counted, rng = BudgetedGame(game, 11), np.random.default_rng(seed)
    found = SurrogateEstimator(focus=np.inf).estimate(EstimationProblem(counted, 11, rng, n_remove=3))
    plan = SearchSelector().select(
        SelectionProblem(found, game.players, 3, game=counted, budget=counted.remaining, rng=rng)
    )
    assert list(plan.removed) == sorted(np.argsort(damage)[:3])
    assert counted.remaining == 0


@pytest.mark.parametrize(("n", "seed"), [(12, 3), (12, 4)])
def test_finds_the_optimum_without_a_game_to_measure_in(n, seed):
    game = quadratic_game(n, seed)
    rng = np.random.default_rng(seed)
    found = SurrogateEstimator(focus=np.inf, share=1.0).estimate(EstimationProblem(game, 100, rng))
    for n_remove in (2, 3, 4):
        plan = SearchSelector().select(SelectionProblem(found, game.players, n_remove, rng=rng))
        regret = best_value(game, n_remove) - value_of(game, plan)
        assert regret < 0.02


def test_without_a_game_measured_values_count_more_than_predictions():
    table = np.random.default_rng(0).normal(size=64)
    game = FunctionGame(6, lambda rows: table[rows @ (1 << np.arange(6))])
    found = ExactEstimator().estimate(EstimationProblem(game, 64, np.random.default_rng(0)))
    for n_remove in range(1, 6):
        plan = SearchSelector(starts=2).select(
            SelectionProblem(found, game.players, n_remove, rng=np.random.default_rng(0))
        )
        assert plan.measured_value == value_of(game, plan) == best_value(game, n_remove)


@settings(max_examples=10)
@given(st.integers(0, 10**6), st.integers(1, 4))
def test_never_measures_or_chooses_what_is_not_permitted(seed, n_remove):
    game = quadratic_game(9, seed, rule=SPACED)
    rng = np.random.default_rng(seed)
    found = SurrogateEstimator().estimate(EstimationProblem(game, 30, rng, n_remove=n_remove))
    counted = BudgetedGame(game, 30)
    plan = SearchSelector(batch=4).select(
        SelectionProblem(found, game.players, n_remove, game=counted, budget=30, rng=rng)
    )
    measured = [absent_players(row) for row in counted.evaluated()[0]]
    assert all(game.permits(absent) and len(absent) == n_remove for absent in measured)
    assert game.permits(plan.removed)
    assert SearchSelector().select(
        SelectionProblem(found, game.players, n_remove, game=game, rng=rng)
    ).removed in {s for s in combinations(range(9), n_remove) if game.permits(s)}


def test_no_permitted_set_is_an_error():
    game = quadratic_game(4, 0, rule=SPACED)
    rng = np.random.default_rng(0)
    found = SurrogateEstimator().estimate(EstimationProblem(game, 16, rng))
    with pytest.raises(InputError, match="no permitted set of 3 players"):
        SearchSelector().select(SelectionProblem(found, game.players, 3, game=game, rng=rng))


@given(st.integers(2, 9), st.integers(0, 10**6))
def test_swaps_are_all_sets_at_distance_one(n, seed):
    rng = np.random.default_rng(seed)
    candidates = np.flatnonzero(rng.random(n) < 0.8)
    coalition = np.ones(n, dtype=np.bool_)
    coalition[rng.permutation(candidates)[: rng.integers(len(candidates) + 1)]] = False
    absent = set(absent_players(coalition))
    expected = {
        frozenset(other)
        for other in combinations(candidates.tolist(), len(absent))
        if len(absent - set(other)) == 1
    }
    everything = swaps(random_polynomial(n, rng), coalition, candidates, n * n)
    found = [frozenset(absent_players(row)) for row in everything]
    assert len(found) == len(set(found))
    assert set(found) == expected


def random_polynomial(n, rng):
    upper = np.triu(rng.normal(size=(n, n)), 1)
    return Polynomial(rng.normal(), rng.normal(size=n), upper + upper.T)


@given(st.integers(2, 9), st.integers(0, 10**6))
def test_gains_are_the_differences_of_the_values(n, seed):
    rng = np.random.default_rng(seed)
    polynomial, coalition = random_polynomial(n, rng), rng.random(n) < 0.5
    candidates = np.flatnonzero(rng.random(n) < 0.8)
    back, gone, gains = swap_gains(polynomial, coalition, candidates)
    assert gains.shape == (len(gone), len(back))
    for row, out in enumerate(gone):
        for column, home in enumerate(back):
            other = coalition.copy()
            other[home], other[out] = True, False
            before, after = polynomial.predict(np.array([coalition, other]))
            assert gains[row, column] == pytest.approx(after - before, abs=1e-9)


@given(st.integers(2, 9), st.integers(0, 10**6), st.integers(0, 12))
def test_few_swaps_are_the_best_ones(n, seed, at_most):
    rng = np.random.default_rng(seed)
    polynomial, coalition = random_polynomial(n, rng), rng.random(n) < 0.5
    everything = swaps(polynomial, coalition, np.arange(n), n * n)
    best = np.sort(polynomial.predict(everything))[::-1][:at_most]
    found = polynomial.predict(swaps(polynomial, coalition, np.arange(n), at_most))
    assert np.sort(found)[::-1] == pytest.approx(best, abs=1e-9)


@given(st.integers(3, 8), st.integers(0, 10**6))
def test_climb_ends_on_a_local_optimum_of_the_candidates(n, seed):
    rng = np.random.default_rng(seed)
    polynomial = random_polynomial(n, rng)
    candidates = np.flatnonzero(rng.random(n) < 0.8)
    start = np.ones(n, dtype=np.bool_)
    start[rng.permutation(candidates)[: rng.integers(len(candidates) + 1)]] = False
    reached = climb(polynomial, start, candidates)
    around = swaps(polynomial, reached, candidates, n * n)
    value, before = polynomial.predict(np.array([reached, start]))
    assert value >= before
    assert (polynomial.predict(around) <= value + 1e-9).all()
    assert (~reached).sum() == (~start).sum()
    assert set(np.flatnonzero(~reached)) <= set(candidates.tolist())


@pytest.mark.parametrize("size", [1e-30, 1e30])
def test_climb_ends_whatever_the_unit(size):
    rng = np.random.default_rng(0)
    polynomial, start = random_polynomial(40, rng), rng.random(40) < 0.7
    expected = climb(polynomial, start, np.arange(40))
    assert (climb(polynomial.scaled(size), start, np.arange(40)) == expected).all()


def test_climb_with_nothing_to_swap_or_to_gain():
    start = without(3, [[0]])[0]
    flat = Polynomial(0.0, np.zeros(3), np.zeros((3, 3)))
    assert (climb(flat, start, np.array([0])) == start).all()
    assert (climb(flat, start, np.arange(3)) == start).all()
    assert swaps(flat, start, np.array([0]), 5).shape == (0, 3)


def test_the_best_set_of_256_layers_is_found_among_many_neighbours():
    rng = np.random.default_rng(1)
    linear = rng.uniform(-1.0, 1.0, 256)
    pairs = np.zeros((256, 256))
    start = without(256, [range(60)])[0]
    reached = climb(Polynomial(0.0, linear, pairs), start, np.arange(256))
    assert set(np.flatnonzero(~reached)) == set(np.argsort(-linear)[:60].tolist())
    assert len(swaps(Polynomial(0.0, linear, pairs), reached, np.arange(256), 100)) == 100


def test_rounds_grow_with_the_evidence_and_start_from_the_last_scales(monkeypatch):
    game, rng = quadratic_game(16, 0), np.random.default_rng(0)
    found = SurrogateEstimator(share=1.0).estimate(EstimationProblem(game, 1000, rng, n_remove=5))
    starts, asked = [], []
    fit, values = QuadraticSurrogate.fit, game.values

    def remember(self, coalitions, known):
        starts.append(self.start)
        return fit(self, coalitions, known)

    monkeypatch.setattr(QuadraticSurrogate, "fit", remember)
    measuring = FunctionGame(16, lambda rows: asked.append(len(rows)) or values(rows))
    problem = SelectionProblem(found, game.players, 5, game=measuring, budget=100, rng=rng)
    SearchSelector(batch=4, patience=100).select(problem)
    assert asked[0] == 1000 // 64
    assert sorted(asked[:-1]) == asked[:-1]
    assert starts[0] == found.surrogate.scales
    assert None not in starts


def test_evidence_orders_permitted_sets_of_the_right_size():
    rows = without(4, [[0], [1], [2], [0, 1], [3]])
    evidence = Evidence(rows[:3], np.array([1.0, 3.0, 2.0]), np.ones(3, dtype=bool))
    evidence = evidence.with_more(rows[3:], np.array([9.0, np.nan]), np.ones(2, dtype=bool))
    evidence = evidence.with_more(without(4, [[0, 2]]), np.array([99.0]), np.zeros(1, dtype=bool))
    assert [absent_players(row) for row in evidence.best(2, lambda _: True, 5)] == [(0, 1)]
    assert evidence.value_of(without(4, [[0, 2]])[0]) is None
    best = evidence.best(1, lambda absent: absent != (2,), 5)
    assert [absent_players(row) for row in best] == [(1,), (0,)]
    assert evidence.value_of(rows[3]) == 9.0
    assert evidence.value_of(rows[4]) is None


class Text:
    """A game on one piece of text, which notes how many coalitions it was asked for."""

    def __init__(self, values):
        self._values, self.asked = values, []

    def values(self, coalitions):
        self.asked.append(len(coalitions))
        return np.array([self._values[key] for key in keys(coalitions)])


def test_a_race_halves_its_field_each_time_the_text_doubles():
    rng = np.random.default_rng(3)
    field = without(8, [pair for pair, _ in zip(combinations(range(8), 2), range(16), strict=False)])
    quality = rng.permutation(16) / 16
    noise = [rng.normal(0, 0.01, 16) for _ in range(8)]
    noise[4][quality.argmax()] -= 0.3  # or the runner-up would be told apart there
    texts = [Text(dict(zip(keys(field), quality + found, strict=True))) for found in noise]
    end = race(field, texts)
    winner, value = end.winner, end.value
    assert [text.asked for text in texts] == [[16], [8], [4], [4], [2], [2], [2], [2]]
    assert winner == int(quality.argmax())
    assert value == pytest.approx(quality.max() - 0.3 / 8, abs=0.02)


def test_the_runner_up_drops_out_of_the_second_half_once_it_is_told_apart():
    rng = np.random.default_rng(4)
    field = without(4, [(0,), (1,)])
    texts = [Text(dict(zip(keys(field), rng.normal([0.0, -0.5], 0.01), strict=True))) for _ in range(8)]
    end = race(field, texts)
    assert [text.asked for text in texts] == [[2]] * 5 + [[1]] * 3
    assert (end.winner, end.told_apart) == (0, True)
    assert end.value == pytest.approx(np.mean([text.values(field[:1])[0] for text in texts]))


def test_what_is_kept_in_a_race_can_win_after_a_bad_start():
    field = without(6, [(player,) for player in range(6)])
    first = Text(dict(zip(keys(field), [-5.0, -1.0, -2.0, -3.0, -4.0, -6.0], strict=True)))
    others = [
        Text(dict(zip(keys(field), [0.0, -3.0, -3.0, -3.0, -3.0, -3.0], strict=True))) for _ in range(3)
    ]
    assert race(field, [first, *others]).winner == 1
    assert race(field, [first, *others], kept=[5]).winner == 1
    assert race(field, [first, *others], kept=[0]) == Outcome(0, -1.25, told_apart=False)


def test_predicted_sets_fill_up_the_race_where_few_have_been_measured():
    game = quadratic_game(9, 5)
    final = FunctionGame(9, game.values)
    raced = BudgetedGame(final, 100)
    counted, rng = BudgetedGame(game, 12), np.random.default_rng(5)
    found = SurrogateEstimator(focus=np.inf).estimate(EstimationProblem(counted, 12, rng, n_remove=3))
    plan = SearchSelector().select(
        SelectionProblem(
            found, game.players, 3, game=counted, budget=counted.remaining, finals=[raced], rng=rng
        )
    )
    assert raced.spent == 16
    assert plan.final_value == raced.evaluated()[1].max()


@pytest.mark.parametrize("n_remove", [3, 6, 10])
def test_ours_and_its_finals_take_at_most_half_of_greedys_tokens(n_remove):
    ours, greedy = parse_methods("ours,greedy")
    sizes = make_recipe({"model": "any", "remove": n_remove})
    field = without(30, [(player,) for player in range(SearchSelector().finalists)])
    parts = [Text(dict.fromkeys(keys(field), 0.0)) for _ in range(8)]
    race(field, parts)
    finals = sum(sum(part.asked) for part in parts) * sizes.finalist_samples // len(parts)
    searched = ours.evaluations(30, n_remove, sizes.budget) * ours.method.windows
    assert searched + finals <= greedy.evaluations(30, n_remove, sizes.budget) * sizes.samples / 2


@pytest.mark.parametrize("n_remove", [1, 2, 4])
def test_ours_has_enough_left_to_search_among_a_dozen_layers(n_remove):
    (ours,) = parse_methods("ours")
    sets_beyond_single_layers = ours.evaluations(12, n_remove, 300) - (12 + 1)
    assert sets_beyond_single_layers >= SearchSelector().batch * 2


def test_a_set_without_a_finite_value_loses_the_race():
    field = without(4, [(0,), (1,)])
    first = Text(dict(zip(keys(field), [np.nan, -5.0], strict=True)))
    assert race(field, [first]) == Outcome(1, -5.0, told_apart=False)
    assert race(field, []) == Outcome(0, None, told_apart=False)


class Lengths(FunctionGame):
    """A game on a number of windows, whose value falls a little with each; notes what it was asked for."""

    def __init__(self, windows, asked, values):
        super().__init__(4, lambda rows: np.array([values[key] - self._windows for key in keys(rows)]))
        self._windows, self._asked, self._values = windows, asked, values

    @property
    def tokens(self):
        return 5 * self._windows

    @property
    def narrowing_unit(self):
        return 10

    def narrowed(self, tokens):
        return self if tokens >= self.tokens else Lengths(tokens // 5, self._asked, self._values)

    def measurements(self, coalitions):
        self._asked.append((self._windows, len(coalitions)))
        return super().measurements(coalitions)


def heats(windows, values):
    asked, field = [], all_coalitions(4)[: len(values)]
    game = Lengths(windows, asked, dict(zip(keys(field), values, strict=True)))
    return Heats(game).run(field), asked


def test_the_worse_half_drops_out_of_each_heat_and_keeps_an_estimate():
    (values, measured), asked = heats(16, [1.0, 8.0, 2.0, 7.0, 3.0, 6.0, 4.0, 5.0])
    assert asked == [(4, 8), (8, 4), (16, 2)]
    assert np.flatnonzero(measured).tolist() == [1, 3]
    assert values.tolist() == [1.0 - 16, 8 - 16, 2 - 16, 7 - 16, 3 - 16, 6 - 16, 4 - 16, 5 - 16]


def test_a_candidate_without_a_finite_value_drops_out_first():
    (values, measured), _ = heats(16, [np.nan, 8.0, np.nan, 7.0])
    assert measured.tolist() == [False, True, False, False]
    assert np.isfinite(values).tolist() == [False, True, False, True]
    (values, measured), _ = heats(16, [np.nan, np.nan])
    assert not np.isfinite(values).any()


@pytest.mark.parametrize(("windows", "expected"), [(2, [2]), (4, [2, 4]), (6, [2, 4, 6]), (10, [2, 4, 10])])
def test_heats_are_multiples_of_what_costs_least(windows, expected):
    _, asked = heats(windows, [1.0, 2.0])
    assert [windows for windows, _ in asked] == expected


def test_a_game_that_has_no_text_measures_all_at_once():
    game = FunctionGame(4, lambda rows: rows.sum(axis=1))
    values, measured = Heats(game).run(all_coalitions(4))
    assert values.tolist() == all_coalitions(4).sum(axis=1).tolist()
    assert measured.all()


def test_a_search_in_heats_costs_less_and_its_winner_is_measured_on_all_text():
    rng, asked = np.random.default_rng(0), []
    weights = rng.gamma(1.0, size=4)
    field = all_coalitions(4)
    game = Lengths(16, asked, dict(zip(keys(field), (field @ weights).tolist(), strict=True)))
    found = SurrogateEstimator(share=0.2).estimate(EstimationProblem(game, 64, rng, n_remove=2))
    plan = SearchSelector().select(SelectionProblem(found, game.players, 2, game=game, budget=20, rng=rng))
    assert plan.removed == tuple(sorted(np.argsort(weights)[:2].tolist()))
    assert plan.measured_value == (field @ weights)[~field[:, list(plan.removed)].any(axis=1)].max() - 16


def estimated(n_remove, values):
    asked, field = [], all_coalitions(4)
    game = Lengths(16, asked, dict(zip(keys(field), values.tolist(), strict=True)))
    problem = EstimationProblem(game, 16, np.random.default_rng(0), n_remove=n_remove)
    return SurrogateEstimator().estimate(problem), game, asked


def test_what_a_search_follows_is_measured_on_a_quarter_of_the_text():
    field = all_coalitions(4)
    found, game, asked = estimated(2, field @ np.array([1.0, 2.0, 3.0, 4.0]))
    assert [windows for windows, _ in asked] == [4, 4, 16]
    assert asked[-1] == (16, 1)  # all players together, by which the others are known
    assert found.on_all_text.tolist() == [True] + [False] * (found.evaluations - 1)
    assert found.evaluations == 5 + asked[1][1]
    expected = game.values(found.coalitions)
    assert found.measured == pytest.approx(expected)
    assert found.estimated[:, 0] == pytest.approx(expected[1:])
    assert found.full_value == 10 - 16


def test_without_a_target_all_are_measured_on_all_text():
    found, _, asked = estimated(None, all_coalitions(4) @ np.array([1.0, 2.0, 3.0, 4.0]))
    assert {windows for windows, _ in asked} == {16}
    assert found.on_all_text.all()


def test_an_estimate_is_not_a_measurement():
    found, *_ = estimated(1, all_coalitions(4) @ np.array([1.0, 2.0, 3.0, 4.0]))
    assert not len(found.lookup([0]))
    assert len(found.lookup([])) == 1


@pytest.mark.parametrize("n_remove", [1, 2])
def test_a_set_that_was_estimated_can_win_once_it_is_measured(n_remove):
    weights = np.array([1.0, 2.0, 3.0, 4.0])
    found, game, _ = estimated(n_remove, all_coalitions(4) @ weights)
    problem = SelectionProblem(
        found, game.players, n_remove, game=game, budget=10, rng=np.random.default_rng(0)
    )
    plan = SearchSelector().select(problem)
    assert plan.removed == tuple(range(n_remove))
    assert plan.measured_value == weights[n_remove:].sum() - 16


def test_a_measurement_replaces_an_estimate():
    field = all_coalitions(3)
    before = Evidence(field[:4], np.arange(4.0), np.array([True, False, True, False]))
    after = before.with_more(field[[3, 5]], np.array([7.0, 8.0]), np.array([True, True]))
    assert [keys(field[[row]])[0] for row in (0, 1, 2, 3, 5)] == keys(after.coalitions)
    assert after.values.tolist() == [0.0, 1.0, 2.0, 7.0, 8.0]
    assert after.measured.tolist() == [True, False, True, True, True]


@pytest.mark.parametrize(("lead", "told_apart"), [(1.0, True), (0.01, False)])
def test_a_winner_is_told_apart_only_by_a_lead_beyond_its_spread_over_texts(lead, told_apart):
    rng = np.random.default_rng(0)
    field = without(4, [(0,), (1,)])
    texts = []
    for _ in range(8):
        hard = rng.normal(0, 5)  # a hard text is hard for both
        texts.append(Text(dict(zip(keys(field), hard + rng.normal([lead, 0.0], 0.1), strict=True))))
    assert race(field, texts).told_apart is told_apart
    plain = FunctionGame(4, lambda coalitions: -(~coalitions).sum(axis=1) - (~coalitions)[:, 2:].sum(axis=1))
    finals = [FunctionGame(4, text.values) for text in texts]
    found = SurrogateEstimator().estimate(EstimationProblem(plain, 40, rng, n_remove=1))
    problem = SelectionProblem(found, plain.players, 1, game=plain, budget=0, finals=finals, rng=rng)
    reason = SearchSelector(finalists=2).select(problem).reason
    assert reason.startswith("the winner of 2" if told_apart else "the best of 2")
    assert ("the runner-up is not told apart" in reason) is not told_apart


def test_a_plan_counts_what_was_measured_on_all_text_and_on_a_part():
    rows = without(6, [(), (0,), (1,), (2,)])
    measured = np.array([True, False, False, True])
    evidence = Evidence(rows, np.zeros(4), measured)
    assert _counts(evidence) == (
        "4 measured coalitions, 2 of them on all of the text and the others on a part"
    )
    assert _counts(Evidence(rows, np.zeros(4), measured | True)) == "4 measured coalitions"


@pytest.mark.parametrize(
    ("option", "problem"),
    [
        ({"batch": 0}, "batch=0 is less than 1"),
        ({"patience": -1}, "patience=-1 is less than 1"),
        ({"finalists": 0}, "finalists=0 is less than 1"),
        ({"exploration": -1.0}, "exploration=-1.0 is negative"),
        ({"starts": -1}, "starts=-1 is negative"),
    ],
)
def test_options_out_of_range_are_refused(option, problem):
    with pytest.raises(ValueError, match=problem):
        SearchSelector(**option)
