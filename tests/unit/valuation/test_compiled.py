"""Fused kernels: the same function, compiled, or as it is where it cannot be compiled."""

import sys
from functools import partial

import numpy as np
import pytest
import torch
from forks import forked
from torch._dynamo.exc import TorchRuntimeError
from torch._inductor import config as inductor

from shapcut.valuation.compiled import Fused
from shapcut.valuation.precision import fusing_pays
from shapcut.valuation.prefix_tree import COALITIONS_BEFORE_TRIAL, CoalitionEvaluator, Placement
from shapcut.valuation.step_probe import examine
from shapcut_adapters.transformers.adapter import HFDecoderAdapter

pytestmark = pytest.mark.long

ROWS = torch.arange(12.0).view(3, 4)


def double(rows):
    return torch.relu(rows - 3) * 2


def test_without_a_compiler_the_function_runs_as_it_is(monkeypatch):
    def refuse(*args, **kwargs):
        raise TorchRuntimeError("no compiler")

    fused = Fused(double)
    monkeypatch.setattr(fused, "_compiled", refuse)
    assert torch.equal(fused(ROWS), double(ROWS))
    assert "no compiler" in str(fused.failure)


def test_errors_of_the_function_itself_are_not_hidden(monkeypatch):
    fused = Fused(double)
    monkeypatch.setattr(fused, "_compiled", lambda rows: double(rows) @ rows)
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        fused(ROWS)
    assert fused.failure is None


def compare_fused(compiler=None):
    """Print how far the losses of fused steps are from those of separate ones."""
    if compiler is not None:
        inductor.cpp.cxx = (None, compiler)
    adapter = HFDecoderAdapter()
    model, ids = adapter.example(0)
    rows = np.random.default_rng(0).random((12, 6)) < 0.7
    found = []
    for fuse in (False, True):
        evaluator = CoalitionEvaluator(adapter.stack(model), 6, ids, "nll", Placement(10**8, fuse))
        assert evaluator.fused == fuse
        together = evaluator.means(rows)
        assert [evaluator.means(row[None])[0] for row in rows] == together.tolist()
        found.append(together)
    sys.stdout.write(str(np.abs(found[0] - found[1]).max()))


def gated(rows):
    return torch.nn.functional.silu(rows) * rows + rows


def test_fused_kernels_round_where_separate_ones_do(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    rows = torch.randn(8, 512, generator=torch.Generator().manual_seed(0)).bfloat16()
    fused = Fused(gated)
    assert torch.equal(fused(rows), gated(rows))
    assert fused.failure is None
    assert not torch.equal(gated(rows.float()).bfloat16(), gated(rows))


def fused_difference(tmp_path, compiler=None):
    """What `compare_fused` prints in a process of its own."""
    done = forked(partial(compare_fused, compiler), TORCHINDUCTOR_CACHE_DIR=str(tmp_path))
    assert done.returncode == 0, done.stderr
    return float(done.stdout)


def test_fused_steps_give_the_same_losses(tmp_path):
    assert fused_difference(tmp_path) < 1e-5
    assert any(tmp_path.rglob("*.so"))


def test_a_broken_compiler_does_not_end_an_evaluation(tmp_path):
    assert fused_difference(tmp_path, "/no/such/compiler") == 0.0
    assert not any(tmp_path.rglob("*.so"))


@pytest.mark.parametrize(
    ("device", "operations", "pays"), [("cpu", 1e15, True), ("cpu", 1e12, False), ("cuda", 1e18, False)]
)
def test_compiling_pays_for_much_work_on_a_processor(device, operations, pays):
    assert fusing_pays(torch.device(device), operations) is pays


def test_a_mixture_of_experts_is_neither_fused_nor_shared():
    adapter = HFDecoderAdapter()
    model, ids = adapter.examples()["qwen3_moe"](0)
    stack = adapter.stack(model)
    n_players = len(adapter.players(model))
    with torch.inference_mode():
        regularity = examine(stack, n_players, stack.prelude(ids))
    assert not regularity.fusible
    assert not regularity.fixed
    evaluator = CoalitionEvaluator(stack, n_players, ids, "nll", Placement(10**8))
    evaluator.means(np.ones((COALITIONS_BEFORE_TRIAL, n_players), dtype=np.bool_))
    assert evaluator.states_per_step == 1
