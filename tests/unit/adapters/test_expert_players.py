"""Experts as players of a large mixture: what is asked once for each layer, and not for each expert."""

from collections import Counter

import pytest
import torch
from transformers import DeepseekV3Config, DeepseekV3ForCausalLM, Qwen3MoeConfig, Qwen3MoeForCausalLM

from shapcut_adapters.transformers.adapter import HFDecoderAdapter
from shapcut_adapters.transformers.experts.layout import Mixture

LAYERS, EXPERTS = 3, 64


@pytest.fixture
def wide():
    config = Qwen3MoeConfig(
        vocab_size=32,
        hidden_size=8,
        intermediate_size=8,
        moe_intermediate_size=4,
        num_hidden_layers=LAYERS,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=4,
        num_experts=EXPERTS,
        num_experts_per_tok=4,
    )
    return Qwen3MoeForCausalLM(config).eval()


@pytest.fixture
def asked(monkeypatch):
    """How often each method of a mixture was called."""
    calls = Counter()
    for name in ("objection", "expert_parameters"):
        original = getattr(Mixture, name)

        def counted(self, *args, name=name, original=original):
            calls[name] += 1
            return original(self, *args)

        monkeypatch.setattr(Mixture, name, counted)
    return calls


def test_players_ask_each_layer_once(wide, asked):
    players = HFDecoderAdapter().players(wide, "expert")
    assert len(players) == LAYERS * EXPERTS
    assert asked == {"objection": LAYERS, "expert_parameters": LAYERS}


def test_an_objection_asks_each_layer_once(wide, asked):
    absent = [layer * EXPERTS + expert for layer in range(LAYERS) for expert in range(0, EXPERTS, 4)]
    assert HFDecoderAdapter().can_remove(wide, absent, "expert") is None
    assert asked["objection"] == LAYERS


def test_the_sizes_of_router_groups():
    config = DeepseekV3Config(
        vocab_size=32,
        hidden_size=16,
        intermediate_size=16,
        moe_intermediate_size=8,
        num_hidden_layers=2,
        first_k_dense_replace=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        q_lora_rank=8,
        kv_lora_rank=8,
        qk_nope_head_dim=8,
        qk_rope_head_dim=8,
        v_head_dim=8,
        n_routed_experts=12,
        n_shared_experts=1,
        num_experts_per_tok=2,
        n_group=3,
        topk_group=2,
    )
    with torch.device("meta"):
        model = DeepseekV3ForCausalLM(config).eval()
    players = HFDecoderAdapter().players(model, "expert")
    assert [player.group for player in players] == [3] * 4 + [4] * 4 + [5] * 4
    objection = HFDecoderAdapter().can_remove(model, [0, 1, 4], "expert")
    assert objection == "the 3 router groups of layer 1 would differ in size: [2, 3, 4]"
