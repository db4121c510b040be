"""What each player holds of the cache."""

import copy

import pytest
import torch
from torch import nn

from shapcut.measurement.cache_size import cache_sizes
from shapcut.measurement.player_cache import player_caches
from shapcut_adapters.rwkv.adapter import RwkvPackageAdapter
from shapcut_adapters.transformers.adapter import HFDecoderAdapter
from shapcut_adapters.transformers.families import FAMILIES
from shapcut_adapters.transformers.tiny_models import tiny_model

FAMILY = {family.model_type: family for family in FAMILIES}
LENGTH = 20


@pytest.fixture(scope="module")
def adapter() -> HFDecoderAdapter:
    return HFDecoderAdapter()


@pytest.mark.parametrize("model_type", ["llama", "gemma2", "falcon_h1", "mamba2", "qwen3_next"])
def test_a_block_holds_what_its_removal_saves(model_type: str, adapter: HFDecoderAdapter) -> None:
    model, _ = tiny_model(FAMILY[model_type], 0)
    found = player_caches(adapter, model, adapter.players(model), length=LENGTH)
    assert found.total == cache_sizes(adapter, model, (LENGTH,)).sizes[0]
    for block in (0, 2):
        cut = adapter.remove(copy.deepcopy(model), [block])
        assert found.saved[block] == found.total - cache_sizes(adapter, cut, (LENGTH,)).sizes[0]


def test_attentions_hold_the_cache_and_mlps_nothing(adapter: HFDecoderAdapter) -> None:
    model, _ = tiny_model(FAMILY["falcon_h1"], 0)  # attention and a recurrence side by side
    parts = player_caches(adapter, model, adapter.players(model, "sublayer"), "sublayer", length=LENGTH)
    blocks = player_caches(adapter, model, adapter.players(model), length=LENGTH)
    assert parts.saved[0::2] == blocks.saved
    assert not any(parts.saved[1::2])


def test_states_of_all_layers_in_one_tensor_are_told_apart_by_removal() -> None:
    adapter = RwkvPackageAdapter()
    model, _ = adapter.example(0)
    model = adapter.canonicalise(model)
    found = player_caches(adapter, model, adapter.players(model), length=LENGTH)
    assert sum(found.saved) == found.total > 0


def test_the_model_is_as_before(adapter: HFDecoderAdapter) -> None:
    model, ids = tiny_model(FAMILY["gemma2"], 0)
    before = adapter.logits(model, ids)
    hooks = [len(_hooks(module)) for module in model.modules()]
    player_caches(adapter, model, adapter.players(model), length=LENGTH)
    assert torch.equal(adapter.logits(model, ids), before)
    assert [len(_hooks(module)) for module in model.modules()] == hooks


def _hooks(module: nn.Module) -> list[object]:
    return [*module._forward_hooks.values(), *module._forward_pre_hooks.values()]
