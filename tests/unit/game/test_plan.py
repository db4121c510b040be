import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from shapcut.game.plan import RemovalPlan
from shapcut.support.errors import InputError


def test_a_plan_is_made_from_what_is_removed() -> None:
    plan = RemovalPlan.removing([4, 1], 6, utility="log-likelihood", predicted_value=-3.5)
    assert plan.removed == (1, 4)
    assert plan.kept == (0, 2, 3, 5)
    assert (plan.utility, plan.predicted_value, plan.measured_value) == ("log-likelihood", -3.5, None)


def test_a_plan_is_read_as_it_was_written(tmp_path: Path) -> None:
    plan = RemovalPlan.removing([0], 3, granularity="sublayer", reason="Layer 0 — least.")
    plan.write(tmp_path / "plan.json")
    assert RemovalPlan.read(tmp_path / "plan.json") == plan
    assert json.loads((tmp_path / "plan.json").read_text(encoding="utf-8"))["removed"] == [0]


@pytest.mark.parametrize(
    ("removed", "kept"),
    [((1,), (0, 1)), ((1,), (0,) * 2), ((3,), (0, 1)), ((1, 0), (2,)), ((0,), (2, 1)), ((-1,), (0,))],
)
def test_indices_must_name_every_player_once(removed: tuple[int, ...], kept: tuple[int, ...]) -> None:
    with pytest.raises(ValidationError):
        RemovalPlan(removed=removed, kept=kept)


@pytest.mark.parametrize("removed", [[6], [7], [-1], [1, 1], [True], [2.0], ["1"]])
def test_players_that_do_not_exist_or_repeat_are_refused(removed: list[int]) -> None:
    with pytest.raises(InputError):
        RemovalPlan.removing(removed, 6)


def test_an_unknown_attribute_is_refused() -> None:
    with pytest.raises(ValidationError, match="utilty"):
        RemovalPlan.removing([0], 2, utilty="x")


def test_a_plan_does_not_change() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        RemovalPlan.removing([0], 2).reason = "another"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"{bad", "property name"),
        (b'{"removed": [0]}', "kept"),
        (b'{"removed": [0], "kept": [1], "format_version": 2}', "format_version"),
        (b'{"removed": ["x"], "kept": [1]}', r"removed\.0"),
        (b'{"removed": [0], "kept": [2]}', "every player"),
        (b'{"removed": [true], "kept": [0]}', r"removed\.0"),
        (b'{"removed": [1.0], "kept": [0]}', r"removed\.0"),
        (b'{"removed": [0], "kept": [1], "measured_value": true}', "measured_value"),
        (b'{"removed": [0], "removed": [1], "kept": [0]}', "'removed' is there twice"),
        (b"\xff", "is not a removal plan|cannot read the plan"),
    ],
)
def test_a_file_that_is_no_plan_is_refused(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "plan.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match=words) as caught:
        RemovalPlan.read(path)
    assert "\n" not in str(caught.value)


def test_a_missing_plan_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot read the plan"):
        RemovalPlan.read(tmp_path / "plan.json")


def test_what_each_layer_loses_in_words():
    layers = {"model.layers.0.mlp.experts": 6, "model.layers.3.mlp.experts": 6}
    plan = RemovalPlan.removing([0, 1, 2, 4, 11], 12, granularity="expert", layers=layers)
    assert plan.listed() == ["layer 0: 4 of 6 experts: 0-2, 4", "layer 3: 1 of 6 experts: 5"]
    assert [removal.removed for removal in plan.by_layer()] == [(0, 1, 2, 4), (5,)]
    assert RemovalPlan.removing([2, 3, 5], 6).listed() == ["2, 3, 5"]
    assert RemovalPlan.removing([], 6).listed() == ["none"]


def test_parts_of_blocks_are_listed_by_kind() -> None:
    plan = RemovalPlan.removing([0, 3, 4, 6], 8, granularity="sublayer")
    plan = plan.model_copy(update={"parts": {"attention": (0, 2, 3), "mlp": (1,)}})
    assert plan.listed() == ["attention of 0, 2-3; MLP of 1"]


def test_layers_must_count_all_players(tmp_path):
    path = tmp_path / "plan.json"
    path.write_text('{"removed": [0], "kept": [1, 2], "layers": {"layers.0": 2}}')
    with pytest.raises(InputError, match="layers count 2 players, not 3"):
        RemovalPlan.read(path)
