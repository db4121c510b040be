"""The quadratic surrogate against the polynomial that it should find and an explicit linear regression."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shapcut.estimators.base import EstimationProblem
from shapcut.estimators.data_space import DataSpace
from shapcut.estimators.exact import exact_shapley_values
from shapcut.estimators.feature_space import Features, FeatureSpace
from shapcut.estimators.polynomial import Scales
from shapcut.estimators.quadratic import QuadraticSurrogate, negative_log_evidence
from shapcut.estimators.regression import Measured, NotPositiveDefiniteError
from shapcut.estimators.sampling import GuidedSampler
from shapcut.estimators.surrogate import SurrogateEstimator
from shapcut.game.coalitions import all_coalitions, without
from shapcut.game.game import FunctionGame

SCALES = Scales(player=0.3, pair=0.05, common_player=0.2, common_pair=0.02, noise=0.01)
sizes_and_seeds = st.tuples(st.integers(1, 6), st.integers(0, 10**6))


def polynomial(n, rng):
    """Coefficients (c, a, b) of a random game of degree two; b is symmetric with a zero diagonal."""
    upper = np.triu(rng.normal(0.0, 0.3, (n, n)), 1)
    return rng.normal(), -rng.uniform(0.1, 1.0, n), upper + upper.T


def evaluate(coefficients, coalitions):
    constant, linear, pairs = coefficients
    absent = (~coalitions).astype(np.float64)
    return constant + absent @ linear + 0.5 * np.einsum("ri,ij,rj->r", absent, pairs, absent)


def random_rows(n, count, rng):
    return rng.random((count, n)) < 0.6


def basis(coalitions):
    """Features and their prior variances: constant, players, pairs, number of players, number of pairs."""
    absent = (~coalitions).astype(np.float64)
    n = absent.shape[1]
    pairs = [absent[:, i] * absent[:, j] for i, j in combinations(range(n), 2)]
    size = absent.sum(axis=1)
    columns = [np.ones(len(absent)), *absent.T, *pairs, size, size * (size - 1) / 2]
    variances = [10.0] + [SCALES.player] * n + [SCALES.pair] * len(pairs)
    return np.column_stack(columns), np.array([*variances, SCALES.common_player, SCALES.common_pair])


def explicit_posterior(coalitions, values, focus):
    """Posterior mean and covariance of the coefficients of `basis`, in the values' unit."""
    features, variances = basis(coalitions)
    damage = values.max() - values
    unit = damage.std()
    noise = SCALES.noise * np.exp(np.minimum(2 * damage / focus, 30.0))
    precision = (features.T / noise) @ features + np.diag(1 / variances)
    covariance = np.linalg.inv(precision)
    mean = covariance @ (features.T @ (-damage / unit / noise))
    return unit * mean, unit**2 * covariance


def contribution_functionals(n, absence, removable):
    """Rows that turn coefficients of `basis` into the contributions of the removable players."""
    pairs = list(combinations(range(n), 2))
    rows = np.zeros((len(removable), 1 + n + len(pairs) + 2))
    for row, player in enumerate(removable):
        rows[row, 1 + player] = rows[row, -2] = -1.0
        for column, pair in enumerate(pairs):
            if player in pair and set(pair) <= set(removable):
                rows[row, 1 + n + column] = -absence
        rows[row, -1] = -absence * (len(removable) - 1)
    return rows


@given(sizes_and_seeds, st.sampled_from([np.inf, 1.0]))
def test_posterior_is_that_of_a_linear_regression(case, focus):
    n, seed = case
    rng = np.random.default_rng(seed)
    coalitions = random_rows(n, 12, rng)
    values = rng.normal(size=12)
    surrogate = QuadraticSurrogate(focus).fit(coalitions, values, SCALES)
    mean, covariance = explicit_posterior(coalitions, values, focus)
    new = random_rows(n, 9, rng)
    features, _ = basis(new)
    assert surrogate.predict(new) == pytest.approx(values.max() + features @ mean, abs=1e-7)
    variance = np.einsum("rf,fg,rg->r", features, covariance, features)
    assert surrogate.deviation(new) == pytest.approx(np.sqrt(variance), abs=1e-6)


@given(sizes_and_seeds, st.sampled_from([0.0, 0.2, 0.5, 1.0]), st.booleans())
def test_contributions_are_those_of_a_linear_regression(case, absence, everyone):
    n, seed = case
    rng = np.random.default_rng(seed)
    removable = np.arange(n) if everyone else np.flatnonzero(rng.random(n) < 0.6)
    coalitions = random_rows(n, 12, rng)
    coalitions[:, np.setdiff1d(np.arange(n), removable)] = True
    values = rng.normal(size=12)
    surrogate = QuadraticSurrogate(np.inf).fit(coalitions, values, SCALES)
    means, deviations = surrogate.contributions(absence, None if everyone else removable)
    mean, covariance = explicit_posterior(coalitions, values, np.inf)
    functionals = contribution_functionals(n, absence, removable.tolist())
    assert means[removable] == pytest.approx(functionals @ mean, abs=1e-7)
    variance = np.einsum("rf,fg,rg->r", functionals, covariance, functionals)
    assert deviations[removable] == pytest.approx(np.sqrt(variance), abs=1e-6)
    missing = np.setdiff1d(np.arange(n), removable)
    assert np.isnan(means[missing]).all()
    assert np.isnan(deviations[missing]).all()


@given(sizes_and_seeds)
def test_contributions_formula(case):
    n, seed = case
    rng = np.random.default_rng(seed)
    surrogate = QuadraticSurrogate().fit(random_rows(n, 10, rng), rng.normal(size=10), SCALES)
    linear, pairs = surrogate.coefficients()
    assert (pairs == pairs.T).all()
    assert (np.diagonal(pairs) == 0).all()
    for absence in (0.0, 0.3, 1.0):
        expected = -linear - absence * pairs.sum(axis=1)
        assert surrogate.contributions(absence)[0] == pytest.approx(expected, abs=1e-9)
    assert (surrogate.shapley()[0] == surrogate.contributions(0.5)[0]).all()


@given(sizes_and_seeds)
def test_closed_form_is_the_exact_shapley_value_of_the_surrogate(case):
    n, seed = case
    rng = np.random.default_rng(seed)
    surrogate = QuadraticSurrogate().fit(random_rows(n, 10, rng), rng.normal(size=10), SCALES)
    everything = all_coalitions(n)
    exact = exact_shapley_values(everything, surrogate.predict(everything))
    assert surrogate.shapley()[0] == pytest.approx(exact, abs=1e-8)


@given(sizes_and_seeds)
def test_coefficients_and_predictions_are_the_same_polynomial(case):
    n, seed = case
    rng = np.random.default_rng(seed)
    surrogate = QuadraticSurrogate().fit(random_rows(n, 10, rng), rng.normal(size=10), SCALES)
    everything = all_coalitions(n)
    constant = surrogate.predict(everything[-1:])[0]
    linear, pairs = surrogate.coefficients()
    assert surrogate.predict(everything) == pytest.approx(
        evaluate((constant, linear, pairs), everything), abs=1e-8
    )


@settings(max_examples=12)
@given(st.tuples(st.integers(4, 7), st.integers(0, 10**6)))
def test_recovers_a_game_of_degree_two(case):
    n, seed = case
    game = polynomial(n, np.random.default_rng(seed))
    near = without(n, [s for size in range(min(n, 3) + 1) for s in combinations(range(n), size)])
    surrogate = QuadraticSurrogate(np.inf).fit(near, evaluate(game, near))
    everything = all_coalitions(n)
    truth = evaluate(game, everything)
    assert surrogate.predict(everything) == pytest.approx(truth, abs=0.03 * truth.std())
    exact = exact_shapley_values(everything, truth)
    assert surrogate.shapley()[0] == pytest.approx(exact, abs=0.03 * np.abs(exact).max())


@given(sizes_and_seeds)
def test_more_data_make_it_surer(case):
    n, seed = case
    rng = np.random.default_rng(seed)
    coalitions, values = random_rows(n, 16, rng), rng.normal(size=16)
    everything = all_coalitions(n)
    before_rows, before_players = np.inf, np.inf
    for count in (2, 6, 16):
        surrogate = QuadraticSurrogate(np.inf).fit(coalitions[:count], values[:count], SCALES)
        rows = surrogate.deviation(everything) / surrogate._unit
        players = surrogate.shapley()[1] / surrogate._unit
        assert (rows <= before_rows + 1e-7).all()
        assert (players <= before_players + 1e-7).all()
        before_rows, before_players = rows, players
    assert (before_players < np.sqrt(SCALES.player + SCALES.common_player + 10.0)).all()


@pytest.mark.parametrize("n", [1, 4, 30])
@pytest.mark.parametrize(
    "kind", ["one row", "constant", "constant zero", "duplicates", "contradiction", "huge"]
)
def test_stays_finite(n, kind):
    rng = np.random.default_rng(1)
    rows = random_rows(n, 12, rng)
    coalitions, values = {
        "one row": (rows[:1], np.array([-3.0])),
        "constant": (rows, np.full(12, 0.1)),
        "constant zero": (rows, np.zeros(12)),
        "duplicates": (np.repeat(rows[:3], 8, axis=0), np.repeat([1.0, 2.0, 3.0], 8)),
        "contradiction": (np.repeat(rows[:1], 6, axis=0), np.arange(6.0)),
        "huge": (rows, -(10.0 ** np.arange(12))),
    }[kind]
    surrogate = QuadraticSurrogate().fit(coalitions, values)
    everything = random_rows(n, 50, rng)
    assert np.isfinite(surrogate.predict(everything)).all()
    assert np.isfinite(surrogate.deviation(everything)).all()
    for part in (*surrogate.shapley(), *surrogate.coefficients()):
        assert np.isfinite(part).all()


def test_constant_values_are_predicted():
    rows = random_rows(5, 12, np.random.default_rng(0))
    surrogate = QuadraticSurrogate().fit(rows, np.full(12, -2.5))
    assert surrogate.predict(all_coalitions(5)) == pytest.approx(-2.5, abs=1e-9)
    assert surrogate.shapley()[0] == pytest.approx(0.0, abs=1e-9)


@given(st.integers(0, 10**6), st.floats(0.01, 100), st.floats(-50, 50))
def test_unit_and_origin_of_the_value_do_not_matter(seed, unit, origin):
    rng = np.random.default_rng(seed)
    rows, values = random_rows(5, 14, rng), rng.normal(size=14)
    first = QuadraticSurrogate().fit(rows, values, SCALES)
    second = QuadraticSurrogate().fit(rows, origin + unit * values, SCALES)
    assert second.predict(rows) == pytest.approx(origin + unit * first.predict(rows), rel=1e-6, abs=1e-6)
    assert second.shapley()[0] == pytest.approx(unit * first.shapley()[0], rel=1e-6, abs=1e-6 * unit)
    assert second.shapley()[1] == pytest.approx(unit * first.shapley()[1], rel=1e-6)


def test_bad_coalitions_weigh_little():
    rows = without(3, [[], [0], [1], [0], [1]])
    values = np.array([0.0, -1.0, -1.0, -1.2, -9.0])
    all_alike = QuadraticSurrogate(np.inf).fit(rows, values, SCALES).predict(rows[2:3])[0]
    focused = QuadraticSurrogate(1.0).fit(rows, values, SCALES).predict(rows[2:3])[0]
    assert abs(focused + 1.0) < 0.2 * abs(all_alike + 1.0)


@pytest.mark.parametrize("focus", [0.0, -1.0, np.nan])
def test_refuses_a_focus_that_is_not_positive(focus):
    with pytest.raises(ValueError, match="is not positive"):
        QuadraticSurrogate(focus)


def test_an_unfitted_surrogate_says_so():
    with pytest.raises(RuntimeError, match="has not been fitted"):
        QuadraticSurrogate().coefficients()


@pytest.mark.parametrize("count", [12, 25], ids=["more features", "more measurements"])
def test_draws_have_the_posterior_mean_and_deviation(count):
    rng = np.random.default_rng(5)
    rows = random_rows(6, count, rng)
    values = evaluate(polynomial(6, rng), rows)
    surrogate = QuadraticSurrogate(np.inf).fit(rows, values, SCALES)
    points = random_rows(6, 12, rng)
    drawn = np.array([surrogate.draw(rng).predict(points) for _ in range(4000)])
    _, covariance = explicit_posterior(rows, values, np.inf)
    features, _ = basis(points)
    expected = np.sqrt(np.diag(features @ covariance @ features.T))
    np.testing.assert_allclose(
        drawn.mean(axis=0), surrogate.predict(points), atol=5 * expected.max() / 4000**0.5
    )
    np.testing.assert_allclose(drawn.std(axis=0), expected, rtol=0.1)


def both_spaces(n, count, rng):
    """The two regressions on the same measurements; some players or pairs may never be absent."""
    coalitions = np.vstack([np.ones(n, dtype=np.bool_), random_rows(n, count, rng)])
    coalitions[:, rng.random(n) < 0.2] = True
    profile = np.exp(np.abs(rng.normal(size=count + 1)))
    measured = Measured(coalitions, rng.normal(size=count + 1), profile)
    return DataSpace(measured), FeatureSpace(measured, Features(coalitions))


@given(sizes_and_seeds, st.sampled_from([2, 12, 60]))
def test_both_spaces_have_the_same_posterior(case, count):
    n, seed = case
    rng = np.random.default_rng(seed)
    spaces = both_spaces(n, count, rng)
    new = all_coalitions(n)
    chosen = np.flatnonzero(rng.random(n) < 0.7)
    first, second = (space.condition(SCALES) for space in spaces)
    np.testing.assert_allclose(first.mean().predict(new), second.mean().predict(new), atol=1e-9)
    np.testing.assert_allclose(first.mean().linear, second.mean().linear, atol=1e-9)
    np.testing.assert_allclose(first.mean().pairs, second.mean().pairs, atol=1e-9)
    np.testing.assert_allclose(first.variance(new), second.variance(new), atol=1e-9)
    for absence in (0.0, 0.5):
        np.testing.assert_allclose(
            first.contribution_variance(absence, chosen),
            second.contribution_variance(absence, chosen),
            atol=1e-9,
        )


@given(sizes_and_seeds, st.sampled_from([2, 12, 60]))
def test_both_spaces_have_the_same_evidence(case, count):
    n, seed = case
    rng = np.random.default_rng(seed)
    data, features = both_spaces(n, count, rng)
    scales = Scales(*np.exp(rng.normal(-2.0, 1.0, 5)).tolist())
    (left, left_gradient), (right, right_gradient) = data.evidence(scales), features.evidence(scales)
    assert left == pytest.approx(right, rel=1e-9, abs=1e-9)
    np.testing.assert_allclose(left_gradient, right_gradient, rtol=1e-7, atol=1e-8)


@settings(max_examples=20, deadline=None)
@given(sizes_and_seeds)
def test_the_gradient_of_the_evidence_is_that_of_finite_differences(size_and_seed):
    n, seed = size_and_seed
    rng = np.random.default_rng(seed)
    for space in both_spaces(n, 12, rng):
        at = rng.normal(-2.0, 1.0, 5)
        gradient = negative_log_evidence(space, at)[1]
        differences = [
            (negative_log_evidence(space, at + step)[0] - negative_log_evidence(space, at - step)[0]) / 2e-5
            for step in 1e-5 * np.eye(5)
        ]
        np.testing.assert_allclose(gradient, differences, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("count", "matrices"), [(30, "DataPosterior"), (200, "FeaturePosterior")])
def test_a_fit_uses_the_smaller_matrices(count, matrices):
    rng = np.random.default_rng(0)
    rows = random_rows(10, count, rng)
    surrogate = QuadraticSurrogate().fit(rows, rng.normal(size=count), SCALES)
    assert type(surrogate._posterior).__name__ == matrices
    assert max(surrogate._posterior.factor.shape) == min(count, 10 + 45 + 3)


@pytest.mark.parametrize("count", [60, 300])
def test_a_warm_start_finds_the_same_scales_in_fewer_steps(count, monkeypatch):
    rng = np.random.default_rng(3)
    rows = random_rows(8, count, rng)
    values = evaluate(polynomial(8, rng), rows) + rng.normal(0, 0.05, count)
    asked = []

    def counted(regression, logarithms):
        asked.append(1)
        return negative_log_evidence(regression, logarithms)

    monkeypatch.setattr("shapcut.estimators.quadratic.negative_log_evidence", counted)
    earlier = QuadraticSurrogate().fit(rows[:-4], values[:-4])
    asked.clear()
    cold = QuadraticSurrogate().fit(rows, values)
    from_cold = len(asked)
    asked.clear()
    warm = QuadraticSurrogate(start=earlier.scales).fit(rows, values)
    assert len(asked) < from_cold
    assert warm.predict(rows) == pytest.approx(cold.predict(rows), abs=1e-3)


@pytest.mark.parametrize("seed", range(3))
def test_scales_of_half_of_the_measurements_save_steps_on_all(seed, monkeypatch):
    rng = np.random.default_rng(seed)
    damage = rng.gamma(1.0, 0.1, 64)
    pairs = np.triu(rng.normal(0.0, 0.005, (64, 64)), 1)
    players = FunctionGame(64, None).players
    rows = GuidedSampler(damage, 13).sample(players, 640, rng)
    values = evaluate((0.0, -damage, pairs + pairs.T), rows) + 0.003 * rng.normal(size=len(rows))
    sizes = []
    evidence = DataSpace.evidence

    def counted(space, scales):
        sizes.append(len(space.absent))
        return evidence(space, scales)

    monkeypatch.setattr(DataSpace, "evidence", counted)
    found = QuadraticSurrogate().fit(rows, values)
    assert set(sizes) == {320, 640}
    with_half, sizes[:] = sizes.count(640), []
    monkeypatch.setattr("shapcut.estimators.quadratic._FEW", 10**6)
    expected = QuadraticSurrogate().fit(rows, values)
    assert set(sizes) == {640}
    assert with_half < len(sizes)
    lost = values.max() - values
    profile = np.exp(np.minimum(2 * lost / np.median(lost[lost > 0]), 30.0))
    space = DataSpace(Measured(rows, -lost / lost.std(), profile))
    assert evidence(space, found.scales)[0] == pytest.approx(evidence(space, expected.scales)[0], abs=1.0)


@pytest.mark.parametrize("noise", [1e-6, 1e-3, 1.0])
def test_a_start_with_collapsed_scales_recovers(noise):
    rng = np.random.default_rng(4)
    rows = random_rows(7, 120, rng)
    values = evaluate(polynomial(7, rng), rows)
    cold = QuadraticSurrogate().fit(rows, values)
    warm = QuadraticSurrogate(start=Scales(1e-6, 1e-6, 1e-6, 1e-6, noise)).fit(rows, values)
    assert warm.predict(rows) == pytest.approx(cold.predict(rows), abs=1e-2)


def test_a_start_that_cannot_be_represented_is_ignored(monkeypatch):
    rng = np.random.default_rng(4)
    rows, values = random_rows(7, 20, rng), rng.normal(size=20)

    def evidence(self, scales):
        if scales.noise > 9.0:
            raise NotPositiveDefiniteError
        return known(self, scales)

    known = DataSpace.evidence
    monkeypatch.setattr(DataSpace, "evidence", evidence)
    cold = QuadraticSurrogate().fit(rows, values)
    warm = QuadraticSurrogate(start=Scales(0.1, 0.1, 0.1, 0.1, 10.0)).fit(rows, values)
    assert warm.scales == cold.scales


def test_large_inputs_go_through_in_chunks(monkeypatch):
    rng = np.random.default_rng(2)
    rows, values = random_rows(6, 90, rng), rng.normal(size=90)
    for count in (12, 90):
        whole = QuadraticSurrogate().fit(rows[:count], values[:count], SCALES)
        expected = whole.predict(rows), whole.deviation(rows)
        with monkeypatch.context() as patch:
            patch.setattr("shapcut.estimators.polynomial._CHUNK", 64)
            parts = QuadraticSurrogate().fit(rows[:count], values[:count], SCALES)
            assert parts.predict(rows) == pytest.approx(expected[0], abs=1e-9)
            assert parts.deviation(rows) == pytest.approx(expected[1], abs=1e-9)


def test_folds_start_from_the_scales_of_the_whole_fit(monkeypatch):
    starts = []
    fit = QuadraticSurrogate.fit

    def remember(self, coalitions, values, scales=None):
        starts.append(self.start)
        return fit(self, coalitions, values, scales)

    monkeypatch.setattr(QuadraticSurrogate, "fit", remember)
    coefficients = polynomial(6, np.random.default_rng(0))
    game = FunctionGame(6, lambda rows: evaluate(coefficients, rows))
    found = SurrogateEstimator().estimate(EstimationProblem(game, 40, np.random.default_rng(0)))
    assert starts == [None] + [found.surrogate.scales] * 5


@pytest.mark.parametrize("count", [12, 80])
def test_a_refit_needs_no_deviations(count):
    rng = np.random.default_rng(0)
    surrogate = QuadraticSurrogate().fit(random_rows(7, count, rng), rng.normal(size=count), SCALES)
    removable = np.array([0, 2, 3, 6])
    expected = surrogate.contributions(0.3, removable)[0]
    np.testing.assert_array_equal(surrogate.mean_contributions(0.3, removable), expected)
