"""Values out of scale end in one clear refusal: no NaN, no endless search, nothing chosen by rounding."""

from itertools import product
from typing import Any

import numpy as np
import pytest

import shapcut
from shapcut.estimators.base import EstimationProblem
from shapcut.game.coalitions import Player
from shapcut.game.game import FunctionGame
from shapcut.support.errors import InputError, ShapcutError

ESTIMATORS = (
    "surrogate",
    "exact",
    "permutation",
    "stratified",
    "leave-one-out",
    "paper:surrogate_masks=60,bootstraps=2",
)


def scaled(scale: float, offset: float = 0.0) -> FunctionGame:
    return FunctionGame(8, lambda coalitions: offset + (coalitions @ np.arange(1, 9.0)) * scale)


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize(
    ("scale", "words"), [(1e160, "above 1e"), (-1e306, "above 1e"), (1e-300, "below 1e")]
)
def test_values_out_of_scale_are_refused(estimator: str, scale: float, words: str) -> None:
    with pytest.raises(InputError, match=words):
        shapcut.estimate(scaled(scale), budget=256, remove=1, estimator=estimator)


@pytest.mark.parametrize("estimator", ["surrogate", "exact", "permutation", "stratified", "leave-one-out"])
@pytest.mark.parametrize("scale", [1e-90, 1.0, 1e90])
def test_contributions_scale_with_the_values(estimator: str, scale: float) -> None:
    game = scaled(scale)
    found = shapcut.estimate(game, budget=256, remove=1, estimator=estimator)
    assert found.values / scale == pytest.approx(np.arange(1, 9.0), rel=0.05)
    assert np.isfinite(found.standard_errors).all()
    assert shapcut.select(found, game.players, remove=1, game=game, budget=30).removed == (0,)


@pytest.mark.parametrize(
    ("estimator", "offset"),
    [*product(ESTIMATORS[:-1], (0.0, -2.5, 1e50)), (ESTIMATORS[-1], -2.5)],  # the last trains networks
)
def test_values_without_spread_are_refused(estimator: str, offset: float) -> None:
    with pytest.raises(ShapcutError, match="have the same value"):
        shapcut.estimate(scaled(0.0, offset), budget=256, remove=1, estimator=estimator)


def test_values_that_differ_by_rounding_alone_are_refused() -> None:
    with pytest.raises(ShapcutError, match="have the same value"):
        shapcut.estimate(scaled(1e-18, 3.0), budget=60, remove=1)


def test_a_search_meets_a_value_out_of_scale() -> None:
    found = shapcut.estimate(scaled(1.0), budget=20, remove=3)
    with pytest.raises(InputError, match="above 1e"):
        shapcut.select(found, scaled(1.0).players, remove=3, game=scaled(1e200), budget=30)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (lambda c: c.astype(float), r"shape \(\d+, 8\)"),
        (lambda _: 1.0, r"shape \(\)"),
        (lambda c: c.sum(axis=1)[:-1], r"shape"),
        (lambda _: None, "NoneType, which is no numbers|shape"),
        (lambda c: ["x"] * len(c), "list, which is no numbers"),
        (lambda c: c.sum(axis=1) * 1j, "no numbers"),
    ],
)
def test_a_function_that_gives_no_value_for_each_coalition(values: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        shapcut.estimate(FunctionGame(8, values), budget=60)


def test_players_are_numbered_from_0() -> None:
    class Numbered(FunctionGame):
        @property
        def players(self) -> tuple[Player, ...]:
            return tuple(Player(index + 1, f"p{index}", "block", 1) for index in range(3))

    with pytest.raises(InputError, match="'p0' at position 0 has the index 1"):
        EstimationProblem(Numbered(3, lambda c: c.sum(axis=1)), 8, np.random.default_rng(0))
    with pytest.raises(InputError, match="0 players"):
        FunctionGame(0, lambda c: c.sum(axis=1))


def test_contributions_of_another_game_are_refused() -> None:
    found = shapcut.estimate(scaled(1.0), budget=20)
    with pytest.raises(InputError, match="those of 8 players, the game has 5"):
        shapcut.select(found, FunctionGame(5, lambda c: c.sum(axis=1)).players, remove=1)
