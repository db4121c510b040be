"""Attention and MLP of each block as players."""

import copy
from contextlib import ExitStack

import accelerate
import numpy as np
import pytest
import torch

from shapcut.contracts import UnsupportedModelError
from shapcut.testing import CHECKS, cases_of, run_check
from shapcut.testing.case import run_stack
from shapcut_adapters.shared.forwards import replaced_forward
from shapcut_adapters.transformers.adapter import HFDecoderAdapter

MECHANISMS = {
    "llama": "one after the other",
    "gpt_neox": "side by side",
    "bloom": "modules that add the stream themselves",
    "falcon_h1": "two token mixers side by side, scaled",
    "nemotron_h": "one part in each block",
}
PROJECTIONS = {
    "llama": ("self_attn.o_proj", "mlp.down_proj"),
    "gemma2": ("self_attn.o_proj", "mlp.down_proj"),
    "gpt2": ("attn.c_proj", "mlp.c_proj"),
    "opt": ("self_attn.out_proj", "fc2"),
    "phi": ("self_attn.dense", "mlp.fc2"),
    "falcon": ("self_attention.dense", "mlp.dense_4h_to_h"),
    "bloom": ("self_attention.dense", "mlp.dense_4h_to_h"),
    "dbrx": ("norm_attn_norm.attn.out_proj", ""),
    "mpt": ("attn.out_proj", "ffn.down_proj"),
    "megatron-bert": ("attention.output.dense", "output.dense"),
    "granitemoeshared": ("self_attn.o_proj", ""),
}
"""Where attention and MLP end in a linear map; without bias unless it adds to the stream itself."""


def example(adapter, name):
    model, input_ids = adapter.examples()[name](0)
    return adapter.canonicalise(model), input_ids


def bypassed(adapter, model, input_ids, absent):
    present = set(range(len(adapter.players(model, "sublayer")))) - set(absent)
    with adapter.bypass(model, present, "sublayer"):
        return adapter.logits(model, input_ids)


def zeroed(model, projections, blocks, absent):
    """A copy whose absent parts end in zeros, weights and biases."""
    other = copy.deepcopy(model)
    with torch.no_grad():
        for player in absent:
            end = other.get_submodule(f"{blocks[player // 2].name}.{projections[player % 2]}")
            for weight in end.parameters():
                weight.zero_()
    return other


@pytest.mark.parametrize("family", MECHANISMS)
def test_conformance(family):
    adapter = HFDecoderAdapter()
    made = cases_of(adapter, family, adapter.examples()[family])
    chosen = [case for case in made if case.granularity == "sublayer"]
    results = [run_check(case, check) for case in chosen for check in CHECKS]
    assert [f"{result.check}: {result.detail}" for result in results if not result.passed] == []


@pytest.mark.parametrize("family", PROJECTIONS)
def test_an_absent_part_adds_what_a_zeroed_projection_adds(adapter, family):
    model, input_ids = example(adapter, family)
    players, blocks = adapter.players(model, "sublayer"), adapter.players(model)
    known = [player.index for player in players if PROJECTIONS[family][player.index % 2]]
    full, stack = adapter.logits(model, input_ids), adapter.stack(model, "sublayer")
    generator = np.random.default_rng(0)
    for size in (1, 2, 4):
        absent = generator.choice(known, size=size, replace=False).tolist()
        expected = adapter.logits(zeroed(model, PROJECTIONS[family], blocks, absent), input_ids)
        assert (expected - full).abs().max() > 1e-2
        found = bypassed(adapter, model, input_ids, absent)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
        found = run_stack(stack, len(players), input_ids, absent)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_players_are_numbered_in_execution_order(adapter):
    model, _ = example(adapter, "llama")
    players = adapter.players(model, "sublayer")
    assert [player.index for player in players] == list(range(12))
    assert [(player.name, player.kind) for player in players[6:8]] == [
        ("model.layers.3.self_attn", "attention"),
        ("model.layers.3.mlp", "mlp"),
    ]
    block = model.model.layers[3]
    sizes = [
        sum(weight.numel() for part in parts for weight in part.parameters())
        for parts in ((block.self_attn, block.input_layernorm), (block.mlp, block.post_attention_layernorm))
    ]
    assert [player.parameters for player in players[6:8]] == sizes
    assert adapter.stack(model, "sublayer").stages(12) == [range(i, i + 2) for i in range(0, 12, 2)]
    assert adapter.granularities(model) == ("block", "sublayer")


@pytest.mark.parametrize(
    ("family", "kinds"),
    [
        ("mamba", ["mixer"]),
        ("jamba", ["mixer", "attention", "mlp"]),
        ("nemotron_h", ["mixer", "attention", "mlp"]),
        ("qwen3_next", ["mixer", "attention", "mlp"]),
        ("mixtral", ["attention", "mlp"]),
        ("axk2", ["attention", "mlp"]),  # norms with matrices
        ("inkling_text", ["attention", "mlp"]),  # convolutions behind attention and MLP
    ],
)
def test_kinds(adapter, family, kinds):
    model, _ = example(adapter, family)
    found = [player.kind for player in adapter.players(model, "sublayer")]
    assert set(found) == set(kinds)
    assert family in {"mamba", "nemotron_h"} or len(found) == 2 * found.count("mlp")
    if family == "jamba":
        layers = ["attention" if each == "attention" else "mixer" for each in model.config.layers_block_type]
        assert found == [kind for layer in layers for kind in (layer, "mlp")]


def test_a_shared_norm_is_counted_once_and_is_no_parts_own(adapter):
    model, _ = example(adapter, "phi")
    attention, mlp = adapter.players(model, "sublayer")[:2]
    block = model.model.layers[0]
    norm = {id(weight) for weight in block.input_layernorm.parameters()}
    own = [adapter.player_parameters(model, part) for part in (attention, mlp)]
    assert not any(id(weight) in norm for part in own for weight in part)
    assert mlp.parameters == sum(weight.numel() for weight in own[1])
    assert attention.parameters + mlp.parameters == adapter.players(model)[0].parameters


def unwanted(*_args, **_kwargs):
    raise AssertionError("computed although it is absent")


@pytest.mark.parametrize(
    ("family", "absent", "idle"),
    [
        ("llama", 6, ["self_attn.q_proj", "self_attn.o_proj"]),
        ("llama", 7, ["mlp.gate_proj"]),
        ("opt", 7, ["fc1", "fc2", "final_layer_norm"]),
        ("gemma2", 6, ["self_attn.q_proj", "post_attention_layernorm"]),
        ("gpt_neox", 6, ["attention.query_key_value"]),
    ],
)
def test_what_is_absent_is_not_computed(adapter, family, absent, idle):
    model, input_ids = example(adapter, family)
    players, stack = adapter.players(model, "sublayer"), adapter.stack(model, "sublayer")
    block = model.get_submodule(adapter.players(model)[3].name)
    with ExitStack() as replaced:
        for path in idle:
            replaced.enter_context(replaced_forward(block.get_submodule(path), unwanted))
        with pytest.raises(AssertionError, match="computed"):
            adapter.logits(model, input_ids)
        found = bypassed(adapter, model, input_ids, {absent})
        assert torch.equal(run_stack(stack, len(players), input_ids, {absent}), found)


def test_contexts_nest(adapter):
    model, input_ids = example(adapter, "llama")
    with adapter.bypass(model, set(range(12)) - {0, 9}, "sublayer"):
        found = bypassed(adapter, model, input_ids, {1, 9})
        with adapter.bypass(model, set(range(6)) - {2}):
            deeper = adapter.logits(model, input_ids)
    assert torch.equal(found, bypassed(adapter, model, input_ids, {0, 1, 9}))
    assert torch.equal(deeper, bypassed(adapter, model, input_ids, {0, 4, 5, 9}))


@pytest.mark.parametrize(
    ("family", "reason"),
    [
        (
            "bert",
            "the blocks of a BertLMHeadModel do not come apart into attention and MLP: block 0 without them",
        ),
        ("doge", "a DogeForCausalLM do not come apart"),
        ("longcat_flash", "a LongcatFlashForCausalLM do not come apart .* is not the sum of its parts"),
        ("zaya", "a ZayaForCausalLM do not come apart .* more than a hidden state"),
        ("hy_v4", "a HYV4ForCausalLM do not come apart .* does not run by itself"),
    ],
)
def test_blocks_that_do_not_come_apart(adapter, family, reason):
    model, _ = example(adapter, family)
    for request in (adapter.players, adapter.stack):
        with pytest.raises(UnsupportedModelError, match=f"{reason}.*; use block$"):
            request(model, "sublayer")
    assert "sublayer" not in adapter.granularities(model)


def test_blocks_that_share_a_module_are_refused(adapter):
    model, _ = example(adapter, "llama")
    model.model.layers[4].mlp = model.model.layers[1].mlp
    with pytest.raises(UnsupportedModelError, match="blocks 1 and 4 share a module"):
        adapter.players(model, "sublayer")


def test_a_residual_that_is_scaled_is_refused(adapter):
    model, _ = example(adapter, "llama")
    block = model.model.layers[2]
    forward = block.forward
    block.forward = lambda *args, **kwargs: 1.5 * forward(*args, **kwargs)
    with pytest.raises(UnsupportedModelError, match="block 2 without them does not return its input"):
        adapter.players(model, "sublayer")


def test_quantized_blocks_stay_whole(adapter):
    model, _ = example(adapter, "llama")
    model.config.quantization_config = {"quant_method": "fp8"}
    with pytest.raises(UnsupportedModelError, match="quantized"):
        adapter.players(model, "sublayer")


def test_attention_that_adds_nothing_is_still_attention(adapter):
    model, _ = example(adapter, "llama")
    players = adapter.players(model, "sublayer")
    with torch.no_grad():
        model.model.layers[0].self_attn.o_proj.weight.zero_()
        model.model.layers[2].mlp.down_proj.weight.zero_()
    assert [player.kind for player in adapter.players(copy.deepcopy(model), "sublayer")] == [
        player.kind for player in players
    ]


def test_keys_and_values_that_later_blocks_use_stay(adapter):
    model, input_ids = example(adapter, "gemma4_text")
    attention, mlp = adapter.players(model, "sublayer")[6:8]
    assert not attention.removable
    assert "keys and values" in attention.reason
    assert mlp.kind == "mlp"
    with (
        pytest.raises(UnsupportedModelError, match="player 6 cannot be absent"),
        adapter.bypass(model, set(range(12)) - {6}, "sublayer"),
    ):
        pass
    assert adapter.stack(model, "sublayer") is None
    assert not torch.equal(bypassed(adapter, model, input_ids, {7}), adapter.logits(model, input_ids))


@pytest.mark.parametrize("family", ["llama", "jamba"])
def test_a_model_without_weights_is_laid_out_as_its_family(adapter, family):
    model, _ = example(adapter, family)
    expected = adapter.players(model, "sublayer")
    assert adapter.players(copy.deepcopy(model).to("meta"), "sublayer") == expected


def test_another_number_format_is_kept(adapter):
    model, input_ids = example(adapter, "llama")
    adapter.players(model, "sublayer")
    model.to(torch.bfloat16)
    expected = bypassed(adapter, model, input_ids, {2, 5})
    assert expected.dtype == torch.bfloat16
    found = run_stack(adapter.stack(model, "sublayer"), 12, input_ids, {2, 5})
    assert torch.equal(found, expected)


def test_offloaded_parts_run_as_others(adapter):
    model, input_ids = example(adapter, "llama")
    expected = bypassed(adapter, model, input_ids, {1, 6, 7})
    offloaded = copy.deepcopy(model)
    accelerate.cpu_offload(offloaded, torch.device("cpu"))
    found = bypassed(adapter, offloaded, input_ids, {1, 6, 7})
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    found = run_stack(adapter.stack(offloaded, "sublayer"), 12, input_ids, {1, 6, 7})
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_both_parts_of_a_block_go_as_the_block(adapter):
    model, input_ids = example(adapter, "jamba")
    whole = copy.deepcopy(model)
    expected = adapter.logits(adapter.remove(whole, {0, 1}), input_ids)
    assert adapter.can_remove(model, {0, 1, 2, 3}, "sublayer") is None
    cut = adapter.remove(model, {0, 1, 2, 3}, "sublayer")
    assert torch.equal(adapter.logits(cut, input_ids), expected)
    n_players = 2 * len(adapter.players(cut))
    assert [player.index for player in adapter.players(cut, "sublayer")] == list(range(n_players))


@pytest.mark.parametrize("absent", [{4}, {5}, {0, 1, 4}])
def test_one_part_of_a_block_cannot_be_written(adapter, absent):
    model, _ = example(adapter, "gemma2")
    reason = "what stays does not alternate attention and MLP"
    assert adapter.can_remove(model, absent, "sublayer").startswith(reason)
    with pytest.raises(UnsupportedModelError, match=reason):
        adapter.remove(model, absent, "sublayer")


def test_parts_have_no_output_projections_of_their_own(adapter):
    model, _ = example(adapter, "llama")
    players = adapter.players(model, "sublayer")
    assert [adapter.output_projections(model, player) for player in players[:2]] == [(), ()]
