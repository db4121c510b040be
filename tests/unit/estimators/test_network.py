"""The paper's surrogate network."""

import numpy as np
import pytest
import torch

from shapcut.estimators.network import NetworkSurrogate, _output_range
from shapcut.game.coalitions import all_coalitions

N = 6
WEIGHTS = np.array([0.3, 0.05, 0.1, 0.02, 0.15, 0.2])
EVERYTHING = all_coalitions(N)


def fitted(values, rows=EVERYTHING, seed=0, **options):
    return NetworkSurrogate(torch.Generator().manual_seed(seed), **options).fit(rows, values)


@pytest.fixture(scope="module")
def additive():
    return fitted(EVERYTHING @ WEIGHTS, epochs=600, batch_size=8, decay_every=200)


def test_learns_an_additive_game(additive):
    assert np.abs(additive.predict(EVERYTHING) - EVERYTHING @ WEIGHTS).mean() < 0.02
    assert additive.mean_marginals(EVERYTHING) == pytest.approx(WEIGHTS, abs=0.03)


def test_mean_marginals_are_those_of_switching_each_player(additive, monkeypatch):
    rows = EVERYTHING[np.random.default_rng(0).permutation(64)[:41]]
    expected = np.empty(N)
    for player in range(N):
        present, absent = rows.copy(), rows.copy()
        present[:, player], absent[:, player] = True, False
        expected[player] = (additive.predict(present) - additive.predict(absent)).mean()
    assert additive.mean_marginals(rows) == pytest.approx(expected, abs=1e-6)
    monkeypatch.setattr("shapcut.estimators.network._ROWS_AT_ONCE", 7)
    assert additive.mean_marginals(rows) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("values", [1.0 + EVERYTHING @ WEIGHTS, -9.0 + 5 * (EVERYTHING @ WEIGHTS)])
def test_values_outside_the_unit_interval_are_represented(values):
    network = fitted(values, epochs=300, batch_size=8, decay_every=200)
    assert np.abs(network.predict(EVERYTHING) - values).mean() < 0.1 * np.ptp(values)
    low, width = network._low, network._range
    assert low < values.min()
    assert low + width > values.max()


def test_the_sigmoid_is_the_papers_for_values_between_0_and_1():
    assert _output_range(np.array([0.2, 1.0])) == (0.0, 1.0)
    assert _output_range(np.array([0.2, 1.2])) == pytest.approx((0.0, 1.25))
    assert _output_range(np.array([-3.0, -1.0])) == pytest.approx((-3.1, 2.2))
    assert _output_range(np.array([-3.0, -3.0])) == (-3.0, 1.0)


def test_randomness_comes_from_the_generator():
    values = EVERYTHING @ WEIGHTS
    options = {"epochs": 3, "batch_size": 10}
    first = fitted(values, **options).predict(EVERYTHING)
    torch.manual_seed(5)
    state = torch.get_rng_state()
    assert fitted(values, **options).predict(EVERYTHING).tolist() == first.tolist()
    assert torch.equal(torch.get_rng_state(), state)
    assert fitted(values, seed=1, **options).predict(EVERYTHING).tolist() != first.tolist()


def test_the_networks_shape_is_the_papers():
    network = fitted(EVERYTHING @ WEIGHTS, epochs=1)._network
    assert [type(layer).__name__ for layer in network] == ["Linear", "CELU", "Linear", "Sigmoid"]
    assert [tuple(p.shape) for p in network.parameters()] == [(12, 6), (12,), (1, 12), (1,)]
