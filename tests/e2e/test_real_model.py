"""The main job on SmolLM2-135M, with a budget that is only just enough."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from shapcut.cli.main import run
from shapcut.estimators.sampling import StratifiedSampler
from shapcut.models.loading import load
from shapcut.models.source import ModelSource
from shapcut.support.quiet import quiet_libraries
from shapcut.valuation.bypass import BypassEvaluator
from shapcut.valuation.prefix_tree import CoalitionEvaluator, Placement
from shapcut_adapters.transformers.adapter import HFDecoderAdapter

pytestmark = [pytest.mark.real_model, pytest.mark.long]

MODEL = "demo:smollm2-135m"


def test_six_of_thirty_blocks(tmp_path: Path) -> None:
    out = tmp_path / "out"
    sizes = ["--samples", "2", "--sequence-length", "16"]
    sizes += ["--finalist-samples", "2", "--held-out-samples", "8", "--no-mend"]
    assert run(["prune", MODEL, "--remove", "6", "--budget", "48", *sizes, "--out", str(out)]) == 0
    with quiet_libraries():
        pruned, tokenizer = AutoModelForCausalLM.from_pretrained(out), AutoTokenizer.from_pretrained(out)
    plan = json.loads((out / "plan.json").read_text())
    result = json.loads((tmp_path / "out.run" / "manifest.json").read_text())["result"]
    assert pruned.config.num_hidden_layers == len(plan["kept"]) == 24
    assert not {0, 1, 29} & set(plan["removed"])
    assert result["pruned"]["perplexity"]["perplexity"] < 4 * result["dense"]["perplexity"]["perplexity"]
    ids = torch.tensor([tokenizer("The value of a coalition is").input_ids])
    adapter, original = HFDecoderAdapter(), load(ModelSource.find(MODEL)).model
    with adapter.bypass(original, plan["kept"]):
        expected = adapter.logits(original, ids)
    torch.testing.assert_close(adapter.logits(pruned, ids), expected, rtol=0, atol=1e-4)
    cached, uncached = (adapter.generate(pruned, ids, 12, use_cache=cache) for cache in (True, False))
    assert torch.equal(cached, uncached)


def differences(dtype: torch.dtype, *, tokens: int, coalitions: int) -> tuple[np.ndarray, np.ndarray, float]:
    """Values of the full model and some coalitions by bypassing, the fast path's error, the largest logit."""
    adapter, model = HFDecoderAdapter(), load(ModelSource.find(MODEL)).model.to(dtype)
    ids = torch.randint(2, 40_000, (2, tokens), generator=torch.Generator().manual_seed(0))
    players = adapter.players(model)
    rows = StratifiedSampler().sample(players, coalitions, np.random.default_rng(0))
    stack = adapter.stack(model)
    assert stack is not None
    fast = CoalitionEvaluator(stack, len(players), ids, "nll", Placement(2**28))
    slow = BypassEvaluator(adapter, model, ids, "nll", sequences_per_step=len(ids))
    found, expected = (np.append(one.means(rows), one.full_mean) for one in (fast, slow))
    return expected, np.abs(found - expected), float(adapter.logits(model, ids).abs().max())


def test_fast_values_are_those_of_bypassing() -> None:
    values, errors, largest = differences(torch.float32, tokens=24, coalitions=4)
    # A loss is a difference of a log-sum-exp and a logit, each rounded to the spacing of the largest logits.
    tolerance = 2 * float(np.spacing(np.float32(largest)))
    assert np.ptp(values[:-1]) > 10 * tolerance
    assert errors.max() <= tolerance, errors


def test_fast_values_in_half_precision_are_those_of_bypassing() -> None:
    values, errors, _ = differences(torch.bfloat16, tokens=8, coalitions=2)
    assert np.ptp(values[:-1]) > 0.2
    assert errors.max() <= 0.02, errors
