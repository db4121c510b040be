"""Models on a GPU: conformance, the values of a CPU, the memory of the right device, a whole run."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from shapcut.cli.main import run
from shapcut.game.coalitions import CoalitionMatrix
from shapcut.testing import CHECKS, Case, cases_of, run_check
from shapcut.valuation.model_game import ModelGame
from shapcut.valuation.precision import default_memory_budget
from shapcut.valuation.prefix_tree import COALITIONS_BEFORE_TRIAL
from shapcut_adapters.transformers.adapter import HFDecoderAdapter

FAMILIES = (
    "llama",
    "gpt2",
    "gemma3_text",
    "smollm3",
    "falcon",
    "bloom",
    "qwen3_moe",
    "deepseek_v3",
    "mamba2",
    "jamba",
)
VALUES = 1e-4
"""Nats between a CPU's float32 values and a GPU's. Two orders of summation on one CPU are up to 7.7e-6 apart
(docs/speed.md, float32 against the bypass); a GPU has further ones of its own, and another exp."""


def case_of(family: str) -> Case:
    adapter = HFDecoderAdapter()
    return cases_of(adapter, family, adapter.examples()[family])[0]


def game_of(case: Case, *, fuse: bool = False) -> ModelGame:
    return ModelGame(case.fresh(), case.adapter, case.input_ids, dtype="float32", fuse=fuse)


def drawn(case: Case, count: int = 12) -> CoalitionMatrix:
    """Coalitions that lack players which can be absent, the whole model first."""
    rows = np.ones((count, len(case.players)), dtype=np.bool_)
    absentable = list(case.absentable)
    rows[1:, absentable] = np.random.default_rng(0).random((count - 1, len(absentable))) < 0.7
    return rows


@pytest.mark.parametrize("family", FAMILIES)
def test_conformance(family: str, gpu: torch.device) -> None:
    case = case_of(family).to(gpu)
    results = [run_check(case, name) for name in CHECKS]
    assert [f"{result.check}: {result.detail}" for result in results if not result.passed] == []


@pytest.mark.parametrize("family", FAMILIES)
def test_values_are_those_of_a_cpu(family: str, gpu: torch.device) -> None:
    case = case_of(family)
    rows = drawn(case)
    here, there = game_of(case), game_of(case.to(gpu))
    expected = here.values(rows)
    assert np.ptp(expected) > 10 * VALUES
    assert np.abs(there.values(rows) - expected).max() <= VALUES
    differing = {key for key, value in there.fingerprint().items() if here.fingerprint()[key] != value}
    assert differing == {"device"}


@pytest.mark.parametrize("family", ["llama", "qwen3_moe", "mamba2"])
def test_a_value_does_not_depend_on_the_other_rows(family: str, gpu: torch.device) -> None:
    case = case_of(family).to(gpu)
    rows = drawn(case, COALITIONS_BEFORE_TRIAL + 12)
    together = game_of(case).values(rows)
    game = game_of(case)
    assert [game.values(row[None])[0] for row in rows] == together.tolist()


def test_fused_kernels_give_the_values_of_separate_ones(gpu: torch.device) -> None:
    case = case_of("llama").to(gpu)
    rows = drawn(case)
    fused = game_of(case, fuse=True)
    assert np.abs(fused.values(rows) - game_of(case).values(rows)).max() <= VALUES


def test_the_memory_budget_is_a_share_of_the_devices_memory(gpu: torch.device) -> None:
    before = default_memory_budget(gpu)
    total = torch.cuda.get_device_properties(gpu).total_memory
    assert 0 < before <= total // 2
    held = torch.empty(2**30, dtype=torch.uint8, device=gpu)
    assert before - default_memory_budget(gpu) >= len(held) // 4
    del held  # its memory is kept by torch for what comes next, so it counts as free
    assert default_memory_budget(gpu) == pytest.approx(before, rel=0.02)


def test_states_stay_on_the_device(gpu: torch.device) -> None:
    case = case_of("llama").to(gpu)
    game = game_of(case)
    before = torch.cuda.memory_allocated(gpu)
    game.values(drawn(case))
    config: Any = game.model.config
    state = case.input_ids.numel() * config.hidden_size * 4
    assert torch.cuda.memory_allocated(gpu) - before >= state * (game.n_players + 1)


def test_a_run_from_start_to_end(tiny_llama_directory: Path, tmp_path: Path, gpu: torch.device) -> None:
    sizes = ["--samples", "3", "--sequence-length", "24", "--finalist-samples", "4", "--budget", "20"]
    more = ["--held-out-samples", "2", "--device", str(gpu), "--run", str(tmp_path / "run"), "--json"]
    command = ["prune", str(tiny_llama_directory), "--out", str(tmp_path / "out"), "--remove", "2"]
    assert run([*command, *sizes, *more]) == 0
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text(encoding="utf-8"))
    assert str(gpu) in json.dumps(manifest)
    model, ids = HFDecoderAdapter().load(tmp_path / "out"), torch.arange(24)[None]
    assert HFDecoderAdapter().logits(model, ids).isfinite().all()


def dispatched(model: Any, devices: tuple[torch.device, torch.device]) -> nn.Module:
    """The model with the second half of its layers, and everything after them, on the second device."""
    from accelerate import dispatch_model  # noqa: PLC0415 - not needed where nothing is spread

    first, second = (device.index for device in devices)
    depth = len(model.model.layers)
    places = {f"model.layers.{index}": first if index < depth // 2 else second for index in range(depth)}
    places |= {
        "model.embed_tokens": first,
        "model.rotary_emb": first,
        "model.norm": second,
        "lm_head": second,
    }
    return dispatch_model(model, places)


def test_a_model_on_two_devices(gpus: tuple[torch.device, torch.device]) -> None:
    case = case_of("llama")
    rows = drawn(case, COALITIONS_BEFORE_TRIAL + 12)
    expected = game_of(case.to(gpus[0])).values(rows)
    model = dispatched(case.fresh(), gpus)
    assert {weight.device for weight in model.parameters()} == set(gpus)
    game = ModelGame(model, case.adapter, case.input_ids, dtype="float32")
    assert np.abs(game.values(rows) - expected).max() <= VALUES
    one_by_one = [game.values(row[None])[0] for row in rows]
    assert np.abs(np.array(one_by_one) - expected).max() <= VALUES
