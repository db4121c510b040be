"""shapiq's approximators as estimators: the budget holds, and what cannot be done is said in one line."""

import importlib

import numpy as np
import pytest

from shapcut.estimators.base import EstimationProblem
from shapcut.estimators.exact import ExactEstimator
from shapcut.estimators.robustness import examined
from shapcut.game.coalitions import keys
from shapcut.game.game import FunctionGame
from shapcut.host.host import build_host
from shapcut.host.registry import Registry
from shapcut.support.errors import InputError
from shapcut_plugins import shapiq as shapiq_estimator


@pytest.fixture(autouse=True)
def shapiq() -> None:
    """Skip where it is missing; its import takes seconds."""
    pytest.importorskip("shapiq")


N = 8
TABLE = np.random.default_rng(0).normal(size=2**N)


def recording():
    asked = set()

    def value(rows):
        asked.update(keys(rows))
        return TABLE[rows @ (1 << np.arange(N))]

    return FunctionGame(N, value), asked


def estimator(spec):
    return build_host().estimators.create(spec)


@pytest.mark.parametrize("name", ["KernelSHAP", "SVARM", "PermutationSamplingSV", "OwenSamplingSV", "SHAPIQ"])
def test_the_budget_holds_and_the_same_seed_gives_the_same(name):
    game, asked = recording()
    first = estimator(f"shapiq:{name}").estimate(EstimationProblem(game, 60, np.random.default_rng(1)))
    assert len(asked) == first.evaluations <= 60
    second = estimator(f"shapiq:approximator={name}").estimate(
        EstimationProblem(game, 60, np.random.default_rng(1))
    )
    np.testing.assert_array_equal(first.values, second.values)
    assert first.estimator == f"shapiq:{name}"
    halves = np.column_stack([first.measured, first.measured, first.measured])
    assert examined(first, halves, np.random.default_rng(0)).robustness.halves_kendall == pytest.approx(1.0)


def test_with_every_coalition_the_answer_is_exact_also_beside_players_that_must_stay():
    game, _ = recording()
    fixed = [1, 5]
    game._players = tuple(
        type(p)(p.index, p.name, p.kind, p.parameters, removable=p.index not in fixed) for p in game.players
    )
    truth = ExactEstimator().estimate(EstimationProblem(game, 64, np.random.default_rng(0))).values
    found = estimator("shapiq:KernelSHAP").estimate(EstimationProblem(game, 64, np.random.default_rng(0)))
    assert found.values == pytest.approx(truth, abs=1e-6, nan_ok=True)
    assert np.isnan(found.values[fixed]).all()
    assert found.coalitions[:, fixed].all()


def test_an_approximator_that_takes_more_than_it_is_given_is_run_with_less(monkeypatch):
    kind = shapiq_estimator.approximators()["KernelSHAP"]

    class Greedy:
        def __init__(self, **options):
            self._inner = kind(**options)

        def approximate(self, budget, game):
            return self._inner.approximate(budget + 15, game)

    monkeypatch.setattr(shapiq_estimator, "approximators", lambda: {"Greedy": Greedy})
    game, asked = recording()
    found = shapiq_estimator.ShapiqEstimator("Greedy").estimate(
        EstimationProblem(game, 60, np.random.default_rng(0))
    )
    assert len(asked) <= 60
    assert np.isfinite(found.values).all()


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("shapiq:Nope", r"knows no approximator 'Nope'; choose from .*KernelSHAP"),
        ("shapiq", r"needs the option approximator: shapiq:VALUE"),
        ("surrogate:half", r"'half' is not of the form key=value"),
    ],
)
def test_what_is_not_there_is_named(spec, message):
    with pytest.raises(InputError, match=message) as refusal:
        estimator(spec)
    assert "\n" not in str(refusal.value)


def test_without_the_package_the_extra_is_named(monkeypatch):
    def missing(name):
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(InputError, match=r"pip install 'shapcut\[shapiq\]'"):
        shapiq_estimator.ShapiqEstimator("KernelSHAP")


def test_a_value_that_is_not_finite_and_a_tiny_budget_are_refused():
    game = FunctionGame(4, lambda rows: np.full(len(rows), np.nan))
    with pytest.raises(InputError, match="no finite value"):
        estimator("shapiq:KernelSHAP").estimate(EstimationProblem(game, 12, np.random.default_rng(0)))
    with pytest.raises(InputError, match="at least 3 coalitions"):
        estimator("shapiq:KernelSHAP").estimate(EstimationProblem(game, 2, np.random.default_rng(0)))


def test_a_first_option_without_a_default_may_go_without_its_name():
    registry = Registry("thing")
    registry.add("pair", lambda first, second=2: (first, second), "here")
    assert registry.create("pair:x,second=3") == ("x", "3")
    assert registry.create("pair:first=y") == ("y", 2)
    with pytest.raises(InputError, match="'x' is not of the form"):
        registry.create("pair:first=y,x")
