"""The step that trains a pruned model."""

import copy
import importlib.util
import json
import math
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from shapcut.game.plan import RemovalPlan
from shapcut.measurement.learning_curve import LearningCurve
from shapcut.steps.step import StepContext
from shapcut.support.errors import InputError
from shapcut_adapters.rwkv.adapter import RwkvPackageAdapter
from shapcut_adapters.transformers.adapter import HFDecoderAdapter
from shapcut_plugins.heal import training as heal_training
from shapcut_plugins.heal.low_rank import add_low_rank, merge_low_rank
from shapcut_plugins.heal.step import Heal
from shapcut_plugins.heal.training import Schedule, distillation_loss

ADAPTER = HFDecoderAdapter()


def windows(length: int) -> Tensor:
    return torch.randint(3, 96, (10, length), generator=torch.Generator().manual_seed(1))


def pruned(name: str = "llama") -> tuple[Any, Any, RemovalPlan]:
    """The original, the pruned model, the plan."""
    original = ADAPTER.canonicalise(ADAPTER.examples()[name](0)[0]).requires_grad_(requires_grad=False)
    plan = RemovalPlan.removing([2], len(ADAPTER.players(original)))
    return original, ADAPTER.remove(copy.deepcopy(original), [2]), plan


def context(original: Any, plan: RemovalPlan, directory: Path) -> StepContext:
    return StepContext(
        adapter=ADAPTER,
        plan=plan,
        calibration=windows(12),
        tokenizer=None,
        directory=directory,
        seed=0,
        original=lambda: original,
        windows=windows,
    )


def divergence(model: Any, original: Any) -> float:
    ids = windows(12)
    return float(distillation_loss(ADAPTER.logits(model, ids), ADAPTER.logits(original, ids), 1.0))


@pytest.mark.parametrize("name", ["llama", "mamba", "rwkv"])
@pytest.mark.parametrize("full", [False, True])
def test_healing_brings_the_model_nearer_and_leaves_it_plain(name: str, full: bool, tmp_path: Path) -> None:
    original, model, plan = pruned(name)
    names, before = list(model.state_dict()), divergence(model, original)
    step = Heal(steps=6, lr=3e-3, batch=5, rank=4, full=full, trial=False)
    step.check(model, ADAPTER)
    healed: Any = step.run(model, context(original, plan, tmp_path))
    assert type(healed) is type(original)
    assert list(healed.state_dict()) == names
    assert not any(parameter.requires_grad for parameter in healed.parameters())
    assert divergence(healed, original) < before
    curve = json.loads((tmp_path / "curve.json").read_text())
    assert [point["step"] for point in curve] == list(range(1, 7))


def test_the_merged_model_computes_what_the_unmerged_one_did() -> None:
    _, model, _ = pruned()
    wrapped = add_low_rank(model, ADAPTER, 4, 0)
    before = ADAPTER.logits(model, windows(12))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1, generator=torch.Generator().manual_seed(3))
    unmerged = ADAPTER.logits(model, windows(12))
    assert float((unmerged - before).abs().max()) > 0.1
    merged = merge_low_rank(wrapped)
    torch.testing.assert_close(ADAPTER.logits(merged, windows(12)), unmerged, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("full", [False, True])
def test_a_killed_training_ends_with_the_same_weights(
    full: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = Heal(loss="text", steps=5, batch=4, rank=4, full=full, checkpoint_every=2, trial=False)
    ends = []
    for place, kills in (("undisturbed", False), ("killed", True)):
        original, model, plan = pruned()
        (tmp_path / place).mkdir()
        where = context(original, plan, tmp_path / place)
        if kills:
            with monkeypatch.context() as patch:
                patch.setattr(Schedule, "rate", _interrupted_at_the_fourth_step)
                with pytest.raises(KeyboardInterrupt):
                    step.run(copy.deepcopy(model), where)
            assert len(list((tmp_path / place / "checkpoints").iterdir())) == 1
        ends.append(step.run(model, where).state_dict())
    assert all(torch.equal(ends[1][name], value) for name, value in ends[0].items())
    for name in ("curve.json", "learning_curve.json"):
        found, wanted = (json.loads((tmp_path / way / name).read_text()) for way in ("killed", "undisturbed"))
        assert found == wanted


@pytest.mark.parametrize("name", ["state.pt", "weights.safetensors", "sha256.json"])
@pytest.mark.parametrize("damaged", [1, 2])
def test_a_training_whose_checkpoint_is_damaged_goes_on_from_the_one_before_or_starts_afresh(
    name: str, damaged: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = Heal(loss="text", steps=5, batch=4, rank=4, checkpoint_every=1, trial=False)
    original, model, plan = pruned()
    where = context(original, plan, tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(Schedule, "rate", _interrupted_at_the_fourth_step)
        with pytest.raises(KeyboardInterrupt):
            step.run(copy.deepcopy(model), where)
    checkpoints = sorted((tmp_path / "checkpoints").iterdir())
    assert [place.name for place in checkpoints] == ["00000002", "00000003"]
    for place in checkpoints[-damaged:]:
        content = bytearray((place / name).read_bytes())
        content[len(content) // 2] ^= 64
        (place / name).write_bytes(content)
    resumed: list[int] = []
    rate = Schedule.rate
    monkeypatch.setattr(Schedule, "rate", lambda self, step: resumed.append(step) or rate(self, step))
    (tmp_path / "undisturbed").mkdir()
    found = step.run(copy.deepcopy(model), where).state_dict()
    assert resumed[0] == 2 * (2 - damaged)
    wanted = step.run(model, context(original, plan, tmp_path / "undisturbed")).state_dict()
    assert all(torch.equal(found[key], value) for key, value in wanted.items())
    assert len(json.loads((tmp_path / "curve.json").read_text())) == 5


_RATE = Schedule.rate


def _interrupted_at_the_fourth_step(schedule: Schedule, step: int) -> float:
    if step == 3:
        raise KeyboardInterrupt
    return _RATE(schedule, step)


def test_a_checkpoint_of_another_plan_is_not_gone_on_from(tmp_path: Path) -> None:
    original, model, plan = pruned()
    Heal(loss="text", steps=2, batch=2).run(copy.deepcopy(model), context(original, plan, tmp_path))
    other = replace(context(original, plan, tmp_path), seed=1)
    Heal(loss="text", steps=1, batch=2).run(model, other)
    assert len(json.loads((tmp_path / "curve.json").read_text())) == 1


@pytest.mark.parametrize("full", [False, True])
def test_training_that_does_harm_stops_and_is_undone(full: bool, tmp_path: Path) -> None:
    original, model, plan = pruned()
    before, names = copy.deepcopy(model).state_dict(), list(model.state_dict())
    written = ADAPTER.generate(model, windows(2), 10, use_cache=True)
    step = Heal(steps=20, lr=0.5, batch=4, rank=4, full=full, checkpoint_every=1, warmup=0.0)
    healed = step.run(model, replace(context(original, plan, tmp_path), windows=lambda _: written))
    assert list(healed.state_dict()) == names
    assert all(torch.equal(value, before[name]) for name, value in healed.state_dict().items())
    tried = json.loads((tmp_path / "trial.json").read_text())
    assert not tried["kept"]
    assert tried["held_back"]["text"]["ratio"] > 1
    curve = json.loads((tmp_path / "curve.json").read_text())
    assert 3 < len(curve) < 20
    assert all(point["held_back"]["text"] > 0 for point in curve)


def test_a_training_that_diverges_is_undone_and_told(tmp_path: Path) -> None:
    original, model, plan = pruned()
    before = copy.deepcopy(model).state_dict()
    step = Heal(steps=20, lr=1e30, batch=4, full=True, checkpoint_every=1, warmup=0.0)
    healed = step.run(model, context(original, plan, tmp_path))
    assert all(torch.equal(value, before[name]) for name, value in healed.state_dict().items())
    assert json.loads((tmp_path / "curve.json").read_text())[-1]["loss"] is None
    curve = LearningCurve.model_validate_json((tmp_path / "learning_curve.json").read_text())
    assert not curve.kept
    assert math.isfinite(curve.points[0].held_back["text"])
    assert not math.isfinite(curve.points[-1].held_back["text"])
    assert [point.step for point in curve.points] == [0, 1, 2, 3, 4]  # stopped after three of no use


def test_the_learning_curve_has_the_mean_loss_between_checkpoints(tmp_path: Path) -> None:
    original, model, plan = pruned()
    texts = {"one": windows(12), "other": windows(12).flip(1)}
    where = replace(context(original, plan, tmp_path), texts=lambda _: texts)
    Heal(loss="text", steps=5, batch=2, checkpoint_every=2, trial=False).run(model, where)
    curve = LearningCurve.model_validate_json((tmp_path / "learning_curve.json").read_text())
    losses = [entry["loss"] for entry in json.loads((tmp_path / "curve.json").read_text())]
    assert curve.loss == "next-token loss"
    assert [point.step for point in curve.points] == [0, 2, 4, 5]
    assert [point.loss for point in curve.points] == [
        None,
        pytest.approx(sum(losses[:2]) / 2),
        pytest.approx(sum(losses[2:4]) / 2),
        pytest.approx(losses[4]),
    ]
    assert [set(point.held_back) for point in curve.points] == [
        {"one", "other"},
        set(),
        set(),
        {"one", "other"},
    ]
    assert [point.step for point in curve.thinned(2)] == [0, 5]
    assert curve.thinned(9) == curve.points


def test_each_source_of_the_text_is_held_back_in_part(tmp_path: Path) -> None:
    original, model, plan = pruned()
    texts = {"one": windows(12), "other": windows(12).flip(1)}
    where = replace(context(original, plan, tmp_path), texts=lambda _: texts)
    Heal(steps=1, batch=2).run(model, where)
    assert set(json.loads((tmp_path / "trial.json").read_text())["held_back"]) == {"one", "other"}


def test_the_learning_rate_rises_and_falls() -> None:
    rates = [Schedule(10, 1.0, 0.2).rate(step) for step in range(10)]
    assert rates[0] < rates[1] < rates[2] == 1.0
    assert all(later < earlier for earlier, later in pairwise(rates[2:]))
    assert rates[-1] > 0


def test_distillation_is_zero_for_the_same_distribution() -> None:
    logits = torch.randn((2, 3, 5), generator=torch.Generator().manual_seed(0))
    assert float(distillation_loss(logits + 1.0, logits, 2.0)) == pytest.approx(0.0, abs=1e-6)
    assert float(distillation_loss(logits.flip(-1), logits, 2.0)) > 0.1


def test_every_window_is_used_once_an_epoch() -> None:
    _, model, _ = pruned()
    training = heal_training.Training(model, ADAPTER, {"x": next(model.parameters())}, windows(12), max)  # type: ignore[arg-type]
    seen = torch.cat([training._batch(step, 5, 7) for step in range(2)])
    assert sorted(map(tuple, seen.tolist())) == sorted(map(tuple, windows(12).tolist()))


def test_without_peft_the_user_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        InputError, match=r"pip install 'shapcut\[heal\]', or train all weights with full=true"
    ):
        Heal().check(pruned()[0], ADAPTER)


def test_a_model_without_gradients_is_refused() -> None:
    adapter = RwkvPackageAdapter()
    model, _ = adapter.example(0)
    with pytest.raises(InputError, match="give no gradients"):
        Heal(full=True).check(model, adapter)
