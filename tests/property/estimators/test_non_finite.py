"""A coalition without a finite value leaves every fit together with its value: no label is shifted."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shapcut.estimators.base import EstimationProblem, finite, held_out_fidelity
from shapcut.estimators.network import NetworkSurrogate
from shapcut.estimators.paper import PaperEstimator
from shapcut.estimators.polynomial import Scales
from shapcut.estimators.quadratic import QuadraticSurrogate
from shapcut.estimators.surrogate import SurrogateEstimator
from shapcut.game.budget import BudgetedGame
from shapcut.game.coalitions import keys, without
from shapcut.game.game import FunctionGame
from shapcut.selection.base import SelectionProblem
from shapcut.selection.search import SearchSelector
from shapcut.support.errors import InputError, ShapcutError

N = 6
WEIGHTS = np.array([0.31, 0.17, 0.05, 0.23, 0.11, 0.07])
BAD = (np.nan, np.inf, -np.inf)


@pytest.fixture(autouse=True, scope="module")
def quick_fits():
    """Fixed prior scales: finding them takes most of a fit's time and is not what is tested here."""
    scales = Scales(player=0.1, pair=0.03, common_player=0.1, common_pair=0.01, noise=1e-5)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(QuadraticSurrogate, "_most_evident_scales", lambda self, measured, regression: scales)
        yield


def true_values(coalitions):
    """A different value for each coalition, from 0 (nobody) to 0.94."""
    return coalitions @ WEIGHTS


def patchy_game(seed, share=0.3, *, keep_singles=False):
    """`true_values`, but a share of the coalitions, always the same ones, has no finite value."""
    broken = np.random.default_rng(seed).random(2**N) < share

    def value(coalitions):
        values = true_values(coalitions)
        numbers = coalitions @ (1 << np.arange(N))
        wrong = broken[numbers] & ~(keep_singles & (coalitions.sum(axis=1) >= N - 1))
        values[wrong] = np.array(BAD)[numbers[wrong] % 3]
        return values

    return FunctionGame(N, value)


@given(st.lists(st.sampled_from([*BAD, 0.0, 1.5, -2.0]), max_size=20))
def test_finite_keeps_rows_and_values_together(values):
    numbers = np.arange(len(values))
    coalitions = ((numbers[:, None] >> np.arange(5)) & 1).astype(np.bool_)
    kept, usable = finite(coalitions, np.array(values, dtype=np.float64))
    expected = [row for row, value in enumerate(values) if np.isfinite(value)]
    assert usable.tolist() == [values[row] for row in expected]
    assert (kept == coalitions[expected]).all()


@settings(max_examples=15)
@given(st.integers(0, 10**6))
def test_surrogate_estimator_equals_a_fit_to_the_finite_rows(seed):
    game = patchy_game(seed, keep_singles=True)
    found = SurrogateEstimator().estimate(
        EstimationProblem(game, 50, np.random.default_rng(seed), n_remove=3)
    )
    usable = np.isfinite(found.measured)
    assert found.excluded == (~usable).sum()
    assert found.measured[usable] == pytest.approx(true_values(found.coalitions[usable]))
    alone = QuadraticSurrogate().fit(found.coalitions[usable], found.measured[usable])
    assert found.values == pytest.approx(alone.shapley()[0])
    assert found.standard_errors == pytest.approx(alone.shapley()[1])
    several = (~found.coalitions).sum(axis=1) > 1
    assert found.fidelity.coalitions == (usable & several).sum()


def test_paper_estimator_trains_on_the_finite_rows_with_their_own_values(monkeypatch):
    fitted = []
    fit = NetworkSurrogate.fit

    def recording_fit(self, coalitions, values):
        fitted.append((coalitions, values))
        self.epochs = 2
        return fit(self, coalitions, values)

    monkeypatch.setattr(NetworkSurrogate, "fit", recording_fit)
    game = patchy_game(3)
    found = PaperEstimator(surrogate_masks=50, bootstraps=2).estimate(
        EstimationProblem(game, 40, np.random.default_rng(0))
    )
    assert found.excluded > 3
    assert len(fitted) == 1 + 2 + 5
    for coalitions, values in fitted:
        assert values == pytest.approx(true_values(coalitions))
    usable = np.isfinite(found.measured) & ~found.coalitions.all(axis=1)
    assert set(keys(fitted[0][0])) == set(keys(found.coalitions[usable]))
    assert len(fitted[0][1]) == usable.sum()


def test_paper_estimator_needs_some_usable_masks():
    with pytest.raises(InputError, match="only 0 usable masks"):
        PaperEstimator().estimate(EstimationProblem(patchy_game(0, share=1.0), 40, np.random.default_rng(0)))


@pytest.mark.parametrize("bad", BAD)
def test_whole_model_without_a_finite_value(bad):
    def value(coalitions):
        return np.where(coalitions.sum(axis=1) >= N - 1, bad, true_values(coalitions))

    found = SurrogateEstimator().estimate(
        EstimationProblem(FunctionGame(N, value), 30, np.random.default_rng(0))
    )
    assert found.full_value is None
    assert found.to_json()["full_value"] is None
    assert np.isfinite(found.values).all()


def test_nothing_finite_is_an_error():
    game = patchy_game(0, share=1.0)
    with pytest.raises(ShapcutError, match="none of 40 coalitions has a finite value"):
        SurrogateEstimator().estimate(EstimationProblem(game, 40, np.random.default_rng(0)))


def test_one_finite_coalition_is_enough_to_go_on():
    def value(coalitions):
        return np.where(coalitions.all(axis=1), 1.0, np.nan)

    found = SurrogateEstimator().estimate(
        EstimationProblem(FunctionGame(N, value), 30, np.random.default_rng(0))
    )
    assert found.fidelity.r_squared is None
    assert found.fidelity.coalitions == 0
    assert np.isfinite(found.values).all()


def test_held_out_fidelity_predicts_each_coalition_by_a_fit_without_it():
    rows = without(N, [[i, j] for i in range(N) for j in range(i)])
    seen = []

    class Remembering(QuadraticSurrogate):
        def fit(self, coalitions, values):
            self.known = set(keys(coalitions))
            return super().fit(coalitions, values)

        def predict(self, coalitions):
            seen.extend(keys(coalitions))
            assert not self.known & set(keys(coalitions))
            assert len(self.known) + len(coalitions) == len(rows)
            return super().predict(coalitions)

    fidelity = held_out_fidelity(Remembering, rows, true_values(rows), np.random.default_rng(0))
    assert sorted(seen) == sorted(keys(rows))
    assert fidelity.coalitions == len(rows)
    assert fidelity.r_squared > 0.9


def test_search_does_not_pay_twice_for_a_coalition_without_a_value():
    game = patchy_game(7, share=0.5, keep_singles=True)
    rng = np.random.default_rng(0)
    found = SurrogateEstimator().estimate(EstimationProblem(game, 40, rng, n_remove=2))
    known = set(keys(found.coalitions))
    assert found.excluded
    counted = BudgetedGame(game, 30)
    plan = SearchSelector().select(SelectionProblem(found, game.players, 2, game=counted, budget=30, rng=rng))
    assert not known & set(keys(counted.evaluated()[0]))
    assert plan.measured_value == pytest.approx(true_values(without(N, [plan.removed]))[0])


def test_search_needs_a_finite_value():
    found = SurrogateEstimator().estimate(
        EstimationProblem(patchy_game(0, share=0.0), 20, np.random.default_rng(0), n_remove=2)
    )
    found.measured[:] = np.nan
    with pytest.raises(InputError, match="has a finite value"):
        SearchSelector().select(
            SelectionProblem(found, patchy_game(0).players, 2, rng=np.random.default_rng(0))
        )
