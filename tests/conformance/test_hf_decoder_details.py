"""What is particular to single families, and to models that are not for this adapter."""

import copy
from dataclasses import replace

import pytest
import torch
import transformers
from accelerate import cpu_offload
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    BertConfig,
    BertForMaskedLM,
    T5Config,
    T5ForConditionalGeneration,
)

from shapcut.models.layer_stack import Unembedding
from shapcut.support.errors import InputError, ShapcutError, UnsupportedModelError
from shapcut.testing.case import run_stack
from shapcut_adapters.transformers.families import FAMILIES
from shapcut_adapters.transformers.tiny_models import tiny_model

SMALL = {"num_hidden_layers": 2, "hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2}
ALL = frozenset(range(6))


def tiny(model_type: str, **changes: object):
    (family,) = (family for family in FAMILIES if family.model_type == model_type)
    model, input_ids = tiny_model(family, 0)
    for name, value in changes.items():
        setattr(model.config, name, value)
    return model, input_ids


def bypassed(adapter, model, input_ids, absent):
    with adapter.bypass(model, ALL - absent):
        return adapter.logits(model, input_ids)


def test_examples_are_the_same_for_the_same_seed_and_leave_global_randomness_alone(adapter):
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    first, first_ids = adapter.example(3)
    second, second_ids = adapter.example(3)
    other, _ = adapter.example(4)
    assert torch.equal(torch.rand(3), expected)
    assert torch.equal(first_ids, second_ids)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert not torch.equal(next(first.parameters()), next(other.parameters()))


def test_layer_types_follow_the_layers(adapter):
    model, _ = tiny("gemma3_text")
    types = list(model.config.layer_types)
    adapter.remove(model, {0, 3})
    assert model.config.layer_types == [types[index] for index in (1, 2, 4, 5)]
    assert model.config.num_hidden_layers == 4
    assert model.model.config is model.config
    assert [layer.self_attn.layer_idx for layer in model.model.layers] == [0, 1, 2, 3]


@pytest.mark.parametrize("kind", ["sliding_attention", "full_attention"])
def test_one_kind_of_attention_may_be_removed_entirely(adapter, tmp_path, kind):
    model, input_ids = tiny("gemma3_text")
    absent = {index for index, layer_type in enumerate(model.config.layer_types) if layer_type == kind}
    reference = bypassed(adapter, copy.deepcopy(model), input_ids, absent)
    removed = adapter.remove(model, absent)
    adapter.save(removed, tmp_path)
    torch.testing.assert_close(adapter.logits(removed, input_ids), reference)
    torch.testing.assert_close(adapter.logits(adapter.load(tmp_path), input_ids), reference)
    cached, uncached = (adapter.generate(removed, input_ids, 4, use_cache=use) for use in (True, False))
    assert torch.equal(cached, uncached)


def test_qwen_window_boundary_becomes_an_explicit_list(adapter, tmp_path):
    model, _ = tiny("qwen3")
    assert model.config.layer_types == ["full_attention"] * 3 + ["sliding_attention"] * 3
    adapter.remove(model, {0, 1})
    adapter.save(model, tmp_path)
    assert adapter.load(tmp_path).config.layer_types == ["full_attention"] + ["sliding_attention"] * 3


def test_index_lists_drop_and_shift(adapter):
    model, _ = tiny("qwen3_moe")
    assert model.config.mlp_only_layers == [1, 4]
    adapter.remove(model, {0, 1})
    assert model.config.mlp_only_layers == [2]


def test_mixtures_that_follow_from_the_index_become_an_explicit_list(adapter, tmp_path):
    (family,) = (family for family in FAMILIES if family.model_type == "qwen3_moe")
    model, input_ids = tiny_model(replace(family, tiny={**family.tiny, "decoder_sparse_step": 2}), 0)
    reference = bypassed(adapter, copy.deepcopy(model), input_ids, {0, 3})
    adapter.save(adapter.remove(model, {0, 3}), tmp_path)
    reloaded = adapter.load(tmp_path)
    assert reloaded.config.decoder_sparse_step == 1
    assert reloaded.config.mlp_only_layers == [0, 1, 2]
    torch.testing.assert_close(adapter.logits(reloaded, input_ids), reference)


def test_a_pattern_of_kinds_is_written_layer_by_layer(adapter):
    model, _ = tiny("gpt_neo")
    adapter.remove(model, {0, 3})
    assert model.config.attention_layers == ["local", "global", "global", "local"]
    assert model.config.attention_types == [[[kind], 1] for kind in model.config.attention_layers]


def test_a_layer_unlike_the_others_stays_in_its_place(adapter):
    model, _ = tiny("gpt_neox_japanese")
    assert [player.removable for player in adapter.players(model)] == [True] * 5 + [False]
    with pytest.raises(UnsupportedModelError, match="only the last layer has a bias"):
        adapter.remove(model, {5})


def test_the_depth_of_an_encoder_is_left_alone(adapter):
    model, _ = tiny("bart")
    adapter.remove(model, {1, 2})
    assert (model.config.decoder_layers, model.config.encoder_layers) == (4, 6)


@pytest.mark.parametrize(
    ("family", "field", "value"),
    [("gpt2", "scale_attn_by_inverse_layer_idx", True), ("bert", "is_decoder", False)],
)
def test_removal_that_cannot_be_exact_is_refused_before_the_model_is_touched(adapter, family, field, value):
    model, _ = tiny(family, **{field: value})
    with pytest.raises(UnsupportedModelError, match=f"{field}={value}"):
        adapter.remove(model, {1})
    assert len(adapter.players(model)) == 6
    assert not any(player.removable for player in adapter.players(model))


def test_a_cache_is_refused_while_blocks_are_bypassed(adapter):
    model, input_ids = adapter.example(0)
    cache = model(input_ids=input_ids, use_cache=True).past_key_values
    with adapter.bypass(model, ALL - {0}):
        assert model(input_ids=input_ids).past_key_values is None
        with pytest.raises(ShapcutError, match="use_cache=False"):
            model(input_ids=input_ids[:, :1], past_key_values=cache)
        with pytest.raises(ShapcutError, match="use_cache=False"):
            adapter.generate(model, input_ids, 2, use_cache=True)
        generated = adapter.generate(model, input_ids, 4, use_cache=False)
    removed = adapter.remove(model, {0})
    assert torch.equal(adapter.generate(removed, input_ids, 4, use_cache=True), generated)


def test_nested_bypasses_add_up(adapter):
    model, input_ids = adapter.example(0)
    both = bypassed(adapter, model, input_ids, {0, 4})
    with adapter.bypass(model, ALL - {0}):
        assert torch.equal(bypassed(adapter, model, input_ids, {4}), both)


def test_gradients_flow_past_a_bypassed_block(adapter):
    model, input_ids = adapter.example(0)
    with adapter.bypass(model, ALL - {2}):
        model(input_ids=input_ids, labels=input_ids).loss.backward()
    assert all(parameter.grad is None for parameter in model.model.layers[2].parameters())
    assert all(parameter.grad is not None for parameter in model.model.layers[1].parameters())


class LlamaForCausalLM(transformers.LlamaForCausalLM):
    """Of the same name, as a hub repository's own code may have it."""


class Wrapper(nn.Module):
    """Passes attributes on, as adapters of weights do."""

    def __init__(self, model):
        super().__init__()
        self.base_model = model

    def __getattr__(self, name):
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("base_model"), name)


def test_other_kinds_of_models_do_not_match(adapter):
    llama, _ = adapter.example(0)
    bert = BertForMaskedLM(BertConfig(vocab_size=32, **SMALL))
    t5 = T5ForConditionalGeneration(T5Config(vocab_size=32, d_model=16, d_ff=16, num_layers=2, num_heads=2))
    assert adapter.matches(llama)
    namesake = LlamaForCausalLM(llama.config)
    for model in (llama.model, Wrapper(llama), namesake, bert, t5, nn.Linear(2, 2)):
        assert not adapter.matches(model)
        with pytest.raises(InputError, match="not a known decoder; known: llama"):
            adapter.players(model)


def test_a_config_that_does_not_count_the_layers_does_not_match(adapter):
    model, _ = adapter.example(0)
    model.config.num_hidden_layers = 5
    assert not adapter.matches(model)


@pytest.mark.parametrize("family", ["llama", "gemma3_text"])
def test_offloaded_weights_give_the_same_results(adapter, family):
    model, input_ids = tiny(family)
    reference = bypassed(adapter, model, input_ids, {1, 5})
    offloaded = cpu_offload(model, torch.device("cpu"))
    assert next(offloaded.parameters()).is_meta
    stack = adapter.stack(offloaded)
    torch.testing.assert_close(run_stack(stack, 6, input_ids, {1, 5}), reference)
    torch.testing.assert_close(bypassed(adapter, offloaded, input_ids, {1, 5}), reference)
    assert stack.unembedding() is None
    torch.testing.assert_close(adapter.logits(adapter.remove(offloaded, {1, 5}), input_ids), reference)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_only_a_plain_last_map_is_declared(adapter, dtype):
    for family, plain in {"llama": True, "gemma2": False, "granite": False, "cohere": False}.items():
        model, input_ids = tiny(family)
        stack = adapter.stack(model.to(dtype))
        stack.prelude(input_ids)
        assert isinstance(stack.unembedding(), Unembedding) is plain, family


def test_arguments_that_carry_the_batch_are_replayed_one_sequence_at_a_time(adapter):
    assert adapter.stack(tiny("bloom")[0]).batch_size == 1
    assert adapter.stack(tiny("llama")[0]).batch_size is None


def test_state_that_flows_beside_the_hidden_state_has_no_stack(adapter):
    model, _ = adapter.example(0)
    original = type(model.model.layers[0]).forward
    seen = []

    def remember(layer, hidden_states, **kwargs):
        seen.append(hidden_states.mean())
        return original(layer, hidden_states, **kwargs) + sum(seen[-2:])

    for layer in model.model.layers:
        layer.forward = remember.__get__(layer)
    assert adapter.stack(model) is None


def test_the_removed_model_loads_without_shapcut(adapter, tmp_path):
    model, input_ids = adapter.example(0)
    adapter.save(adapter.remove(model, {2}), tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert loaded.config.num_hidden_layers == 5
    torch.testing.assert_close(loaded(input_ids).logits, model(input_ids).logits)


def test_a_checkpoint_with_too_many_layers_is_refused(adapter, tmp_path):
    model, _ = adapter.example(0)
    model.config.num_hidden_layers = 5
    model.save_pretrained(tmp_path)
    with pytest.raises(UnsupportedModelError, match=r"model\.layers\.5"):
        adapter.load(tmp_path)
