"""The quadratic surrogate against the polynomial that it should find and an explicit linear regression."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import cho_solve

from shapcut.estimators.exact import exact_shapley_values
from shapcut.estimators.quadratic import QuadraticSurrogate, Scales
from shapcut.game.coalitions import all_coalitions, without

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


def test_draws_have_the_posterior_mean_and_deviation():
    rng = np.random.default_rng(5)
    rows = random_rows(6, 25, rng)
    surrogate = QuadraticSurrogate(np.inf).fit(rows, evaluate(polynomial(6, rng), rows), SCALES)
    points = random_rows(6, 12, rng)
    drawn = np.array([surrogate.draw(rng).predict(points) for _ in range(4000)])
    drawn -= drawn.mean(axis=1, keepdims=True)  # constants are not drawn
    mean = surrogate.predict(points)
    spread = drawn.std(axis=0)
    assert np.abs(drawn.mean(axis=0) - (mean - mean.mean())).max() < 5 * spread.max() / 4000**0.5
    cross = surrogate._kernel((~points) * 1.0, surrogate._absent, SCALES)
    covariance = surrogate._kernel((~points) * 1.0, (~points) * 1.0, SCALES)
    covariance -= cross @ cho_solve(surrogate._factor, cross.T)
    centre = np.eye(12) - 1 / 12
    expected = surrogate._unit * np.sqrt(np.diag(centre @ covariance @ centre))
    np.testing.assert_allclose(spread, expected, rtol=0.1)


@settings(max_examples=20, deadline=None)
@given(sizes_and_seeds)
def test_the_gradient_of_the_evidence_is_that_of_finite_differences(size_and_seed):
    n, seed = size_and_seed
    rng = np.random.default_rng(seed)
    coalitions = np.vstack([np.ones(n, dtype=np.bool_), random_rows(n, 12, rng)])
    surrogate = QuadraticSurrogate().fit(coalitions, rng.normal(size=len(coalitions)), SCALES)
    at = rng.normal(-2.0, 1.0, 5)
    gradient = surrogate._negative_log_evidence(at)[1]
    steps = 1e-5 * np.eye(5)
    differences = [
        (surrogate._negative_log_evidence(at + step)[0] - surrogate._negative_log_evidence(at - step)[0])
        / 2e-5
        for step in steps
    ]
    np.testing.assert_allclose(gradient, differences, rtol=1e-4, atol=1e-5)
