"""Models whose blocks stay on disk until they are used: the same values, few loads, the same checkpoint."""

from collections import Counter

import accelerate.hooks
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from shapcut.game.plan import RemovalPlan
from shapcut.host.host import build_host
from shapcut.models.loading import is_offloaded, load
from shapcut.models.source import ModelSource
from shapcut.pipeline.prune import apply_plan
from shapcut.recipe.recipe import make_recipe
from shapcut.support.errors import InputError
from shapcut.valuation.model_game import ModelGame, model_fingerprint
from shapcut.valuation.prefix_tree import CoalitionEvaluator, Placement
from shapcut_adapters.transformers.adapter import HFDecoderAdapter

N = 6
IDS = torch.arange(3, 27).view(2, 12)
COALITIONS = np.random.default_rng(0).random((20, N)) < 0.7


@pytest.fixture
def adapter():
    return HFDecoderAdapter()


@pytest.fixture
def offloaded(tiny_llama_directory):
    return load(ModelSource.find(str(tiny_llama_directory), device="cpu", offload="disk")).model


@pytest.fixture
def loads(monkeypatch):
    """How often each module's weights were brought in."""
    counted = Counter()
    original = accelerate.hooks.AlignDevicesHook.pre_forward

    def counting(self, module, *args, **kwargs):
        if self.offload:
            counted[module] += 1
        return original(self, module, *args, **kwargs)

    monkeypatch.setattr(accelerate.hooks.AlignDevicesHook, "pre_forward", counting)
    return counted


def evaluator_of(adapter, model, memory=10**8):
    return CoalitionEvaluator(adapter.stack(model), N, IDS, "nll", Placement(memory))


def test_every_block_is_elsewhere_and_nothing_else_is(offloaded):
    assert is_offloaded(offloaded)
    elsewhere = {name.split(".")[2] for name, weight in offloaded.named_parameters() if weight.is_meta}
    assert elsewhere == {str(index) for index in range(N)}
    assert all(weight.is_meta for weight in offloaded.model.layers.parameters())


def test_each_blocks_weights_come_once_a_chunk(adapter, offloaded, loads):
    evaluator = evaluator_of(adapter, offloaded)
    loads.clear()
    before = evaluator.work.block_runs
    evaluator.means(COALITIONS)
    runs = evaluator.work.block_runs - before
    assert len(COALITIONS) <= evaluator.chunk_size
    assert set(loads.values()) == {1}
    owners = {name.split(".")[2] for name, module in offloaded.named_modules() if module in loads}
    assert runs > 3 * len(owners) > 0


def test_the_same_values_as_in_memory(adapter, offloaded, tiny_llama_directory):
    inside = load(ModelSource.find(str(tiny_llama_directory), device="cpu")).model
    expected = evaluator_of(adapter, inside).means(COALITIONS)
    for memory in (10**8, 1):
        found = evaluator_of(adapter, offloaded, memory).means(COALITIONS)
        assert found == pytest.approx(expected, abs=1e-6)
    assert model_fingerprint(offloaded) == model_fingerprint(inside)


def test_nothing_stays_behind_after_an_error(adapter, offloaded):
    stack = adapter.stack(offloaded)
    blocks = offloaded.model.layers

    def fail_inside():
        with stack.resident(2):
            assert not any(weight.is_meta for weight in blocks[2].parameters())
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_inside()
    assert all(weight.is_meta for weight in blocks[2].parameters())
    assert offloaded(input_ids=IDS).logits.isfinite().all()


@pytest.mark.filterwarnings("ignore:Attempting to save a model with offloaded modules")
def test_removed_and_saved_like_a_model_in_memory(adapter, offloaded, tiny_llama_directory, tmp_path):
    inside = load(ModelSource.find(str(tiny_llama_directory), device="cpu")).model
    for model, name in ((inside, "inside"), (offloaded, "offloaded")):
        adapter.save(adapter.remove(model, [0, 3]), tmp_path / name)
    one, other = (adapter.load(tmp_path / name) for name in ("inside", "offloaded"))
    assert torch.equal(adapter.logits(one, IDS), adapter.logits(other, IDS))


def test_a_plan_is_carried_out_and_verified_with_the_blocks_on_disk(
    adapter, tiny_llama_directory, tmp_path, monkeypatch
):
    plan, out = RemovalPlan.removing([0, 3], N), tmp_path / "out"
    sizes = {"samples": 2, "sequence_length": 16, "held_out_samples": 2, "finalist_samples": 0}
    options = {"model": str(tiny_llama_directory), "remove": 2, "device": "cpu", **sizes}
    apply_plan(make_recipe(options), plan, tmp_path / "inside", build_host())

    def load_whole(*_):
        raise AssertionError("the written model was loaded into memory")

    monkeypatch.setattr(HFDecoderAdapter, "load", load_whole)
    apply_plan(make_recipe(options | {"offload": "disk"}), plan, out, build_host())
    found, wanted = (load_file(place / "model.safetensors") for place in (out, tmp_path / "inside"))
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in found)


def test_another_number_format_is_refused(adapter, offloaded):
    assert ModelGame(offloaded, adapter, IDS).dtype == torch.float32
    with pytest.raises(InputError, match=r"--dtype bfloat16 is unavailable with --offload.*float32"):
        ModelGame(offloaded, adapter, IDS, dtype="bfloat16")


def test_only_safetensors_of_transformers(tmp_path):
    gguf = tmp_path / "model.gguf"
    gguf.write_bytes(b"GGUF")
    with pytest.raises(InputError, match="--offload disk needs a safetensors checkpoint"):
        load(ModelSource.find(str(gguf), offload="disk"))
