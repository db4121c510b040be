"""The step that stores a model in 16 bits."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, LlamaForCausalLM

from shapcut.game.plan import RemovalPlan
from shapcut.host.host import build_host
from shapcut.measurement.sizes import checkpoint_bytes, parameter_count
from shapcut.steps.step import StepContext
from shapcut.support.errors import InputError
from shapcut.support.quiet import quiet_libraries
from shapcut_adapters.transformers.adapter import HFDecoderAdapter
from shapcut_plugins.cast import Cast

ADAPTER = HFDecoderAdapter()


def cast(model: nn.Module, dtype: Any = "bfloat16") -> nn.Module:
    """The model after the step."""
    context = StepContext(
        adapter=ADAPTER,
        plan=RemovalPlan.removing([1], 6),
        calibration=torch.zeros(1, 2, dtype=torch.int64),
        tokenizer=None,
        directory=Path(),
        seed=0,
    )
    return Cast(dtype).run(model, context)


def reload(model: nn.Module, directory: Path) -> Any:
    """The model as plain transformers reads it from ``directory``."""
    with quiet_libraries():
        ADAPTER.save(model, directory)
        return AutoModelForCausalLM.from_pretrained(directory, dtype="auto").eval()


def test_the_step_is_registered_with_its_option() -> None:
    postprocessors = build_host().postprocessors
    step = postprocessors.create("cast:dtype=float16")
    assert isinstance(step, Cast)
    assert (step.dtype, step.stage) == (torch.float16, "export")
    assert postprocessors.entry("cast").distribution == "shapcut"
    with pytest.raises(InputError, match="dtype='float64'"):
        postprocessors.create("cast:dtype=float64")


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_the_checkpoint_has_half_the_size_and_reloads_as_it_was(dtype: str, tmp_path: Path) -> None:
    model, ids = ADAPTER.example(0)
    parameters = parameter_count(model)
    pruned: Any = cast(ADAPTER.remove(model, [1, 3]), dtype)
    assert pruned.config.dtype == getattr(torch, dtype)
    expected = ADAPTER.logits(pruned, ids)
    reloaded = reload(pruned, tmp_path)
    assert {weight.dtype for weight in reloaded.parameters()} == {getattr(torch, dtype)}
    assert reloaded.config.dtype == getattr(torch, dtype)
    assert json.loads((tmp_path / "config.json").read_text())["dtype"] == dtype
    assert torch.equal(ADAPTER.logits(reloaded, ids), expected)
    assert parameter_count(pruned) < parameters
    header = 8 + 200 * len(list(pruned.parameters()))
    assert checkpoint_bytes(tmp_path) < 2 * parameter_count(pruned) + header


def test_what_is_not_stored_keeps_its_precision() -> None:
    model, _ = ADAPTER.example(0)
    stored = set(model.state_dict())
    before = {name: buffer.clone() for name, buffer in model.named_buffers() if name not in stored}
    assert before
    after = dict(cast(model).named_buffers())
    assert all(torch.equal(after[name], buffer) for name, buffer in before.items())


def test_what_transformers_keeps_in_full_precision_is_left_in_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(LlamaForCausalLM, "_keep_in_fp32_modules_strict", ["layers.*.self_attn.k_proj"])
    model, _ = ADAPTER.example(0)
    formats = {name: weight.dtype for name, weight in cast(model).named_parameters()}
    assert {dtype for name, dtype in formats.items() if "k_proj" in name} == {torch.float32}
    assert {dtype for name, dtype in formats.items() if "k_proj" not in name} == {torch.bfloat16}
    reloaded = reload(model, tmp_path)
    assert {name: weight.dtype for name, weight in reloaded.named_parameters()} == formats


def test_tied_weights_stay_tied() -> None:
    for name in ("gemma", "gpt2", "opt"):
        model: Any = ADAPTER.examples()[name](0)[0]
        assert model.get_input_embeddings().weight is model.get_output_embeddings().weight
        parameters = parameter_count(model)
        cast(model)
        assert model.get_input_embeddings().weight is model.get_output_embeddings().weight
        assert parameter_count(model) == parameters


def test_a_model_in_the_format_stays_as_it_is() -> None:
    model = cast(ADAPTER.example(0)[0])
    places = [weight.data_ptr() for weight in model.parameters()]
    Cast().check(model, ADAPTER)
    assert [weight.data_ptr() for weight in cast(model).parameters()] == places


@pytest.mark.parametrize("dtype", [torch.int8, torch.float8_e4m3fn])
def test_a_quantized_model_is_refused(dtype: torch.dtype) -> None:
    model = nn.Module()
    model.packed = nn.Parameter(torch.zeros(2).to(dtype), requires_grad=False)
    for refuse in (partial(Cast().check, adapter=ADAPTER), cast):
        with pytest.raises(InputError, match=r"cast: packed is (int8|float8_e4m3fn), .* already quantized"):
            refuse(model)


def test_weights_that_would_become_infinite_are_refused() -> None:
    model = nn.Linear(2, 2)
    nn.init.constant_(model.weight, -7e4)
    with pytest.raises(InputError, match=r"weight has a weight of size 7e\+04, float16 ends at 6\.55e\+04"):
        Cast("float16").check(model, ADAPTER)
    Cast("bfloat16").check(model, ADAPTER)
    assert bool(torch.isfinite(cast(model).weight).all())
