"""Experts as players, in families whose mixtures differ."""

import copy
import dataclasses
from contextlib import ExitStack

import accelerate
import pytest
import torch
from torch.nn import functional

from shapcut.support.errors import UnsupportedModelError
from shapcut.testing import CHECKS, cases_of, run_check
from shapcut.testing.case import run_stack
from shapcut_adapters.shared.forwards import replaced_forward
from shapcut_adapters.transformers.adapter import HFDecoderAdapter
from shapcut_adapters.transformers.families import FAMILIES
from shapcut_adapters.transformers.tiny_models import tiny_model

MECHANISMS = {
    "mixtral": "packed weights and a router, nothing else",
    "qwen2_moe": "a shared expert with a gate of its own, dense layers between",
    "deepseek_v3": "a router that chooses groups first, by scores with a bias",
    "llama4_text": "experts that are given all tokens, without indices",
}
LAYOUTS = {
    "longcat_flash": "experts without weights, behind the others in the router",
    "dbrx": "the rows of all experts in one matrix, a config within the config",
    "gpt_oss": "biases of experts and router",
    "inkling_text": "shared experts behind the others in the router",
    "zaya": "a router that may skip, and reads the count in the config",
    "gemma4_text": "a router and experts beside a dense MLP",
}
FAMILY = {family.model_type: family for family in FAMILIES}


def tiny(model_type, **changes):
    family = FAMILY[model_type]
    return tiny_model(dataclasses.replace(family, tiny={**family.tiny, **changes}), 0)


def bypassed(adapter, model, input_ids, absent):
    present = set(range(len(adapter.players(model, "expert")))) - set(absent)
    with adapter.bypass(model, present, "expert"):
        return adapter.logits(model, input_ids)


def one_of_each_group(adapter, model):
    return {player.group: player.index for player in adapter.players(model, "expert")}.values()


@pytest.mark.parametrize("family", MECHANISMS)
def test_conformance(family):
    adapter = HFDecoderAdapter()
    (case,) = (c for c in cases_of(adapter, family, adapter.examples()[family]) if c.granularity == "expert")
    results = [run_check(case, check) for check in CHECKS]
    assert [f"{result.check}: {result.detail}" for result in results if not result.passed] == []


@pytest.mark.parametrize("family", LAYOUTS)
def test_experts_removed_for_good(adapter, family, tmp_path):
    model, input_ids = tiny(family)
    absent = set(one_of_each_group(adapter, model))
    expected = bypassed(adapter, model, input_ids, absent)
    assert (expected - adapter.logits(model, input_ids)).abs().max() > 1e-2
    adapter.save(adapter.remove(model, absent, "expert"), tmp_path)
    reloaded = adapter.load(tmp_path)
    torch.testing.assert_close(adapter.logits(reloaded, input_ids), expected, rtol=0, atol=1e-5)
    few = bypassed(adapter, reloaded, input_ids, {0, 1})
    assert few.isfinite().all()


def mixtral_router(gate, absent):
    def forward(hidden_states):
        logits = functional.linear(hidden_states, gate.weight)
        logits[:, absent] = -torch.inf
        weights, chosen = logits.softmax(-1).topk(gate.top_k)
        return logits, weights / weights.sum(-1, keepdim=True), chosen

    return forward


def in_best_groups(scores, group_scores, gate):
    """Scores with minus infinity outside a token's groups."""
    best = group_scores.topk(gate.topk_group).indices
    inside = torch.zeros_like(group_scores, dtype=torch.bool).scatter(-1, best, True)  # noqa: FBT003
    return scores.masked_fill(~inside.repeat_interleave(gate.num_experts // gate.num_group, -1), -torch.inf)


def deepseek_v3_router(gate, absent):
    def forward(hidden_states):
        logits = functional.linear(hidden_states.reshape(-1, gate.hidden_dim), gate.weight)
        scores = logits.sigmoid()
        choice = scores + gate.e_score_correction_bias
        choice[:, absent] = -torch.inf
        groups = choice.unflatten(-1, (gate.num_group, -1)).topk(2).values.sum(-1)
        chosen = in_best_groups(choice, groups, gate).topk(gate.top_k).indices
        weights = scores.gather(-1, chosen)
        return logits, weights / weights.sum(-1, keepdim=True) * gate.routed_scaling_factor, chosen

    return forward


def deepseek_v2_router(gate, absent):
    def forward(hidden_states):
        logits = functional.linear(hidden_states.reshape(-1, gate.hidden_dim), gate.weight)
        logits[:, absent] = -torch.inf
        scores = logits.softmax(-1)
        groups = scores.unflatten(-1, (gate.num_group, -1)).amax(-1)
        weights, chosen = in_best_groups(scores, groups, gate).topk(gate.top_k)
        return logits, weights * gate.routed_scaling_factor, chosen

    return forward


@pytest.mark.parametrize(
    ("family", "router"),
    [
        ("mixtral", mixtral_router),
        ("deepseek_v3", deepseek_v3_router),
        ("deepseek_v2", deepseek_v2_router),
    ],
)
@pytest.mark.parametrize("absent", [{2: [1]}, {2: [0, 3], 4: [1]}, {2: [0], 3: [1, 2], 5: [3]}])
def test_the_router_chooses_among_those_present(adapter, family, router, absent):
    model, input_ids = tiny(family)
    players = adapter.players(model, "expert")
    names = {f"model.layers.{layer}.mlp.experts.{e}" for layer, gone in absent.items() for e in gone}
    found = bypassed(adapter, model, input_ids, {p.index for p in players if p.name in names})
    with ExitStack() as stack:
        for layer, gone in absent.items():
            gate = model.model.layers[layer].mlp.gate
            stack.enter_context(replaced_forward(gate, router(gate, gone)))
        expected = adapter.logits(model, input_ids)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    assert (found - adapter.logits(model, input_ids)).abs().max() > 1e-2


@pytest.mark.parametrize("family", ["mixtral", "deepseek_v3", "llama4_text", "zaya"])
def test_a_layer_without_experts_adds_nothing_and_few_serve_every_token(adapter, family):
    model, input_ids = tiny(family)
    players = adapter.players(model, "expert")
    with ExitStack() as stack:
        for name in {player.name.rpartition(".")[0] for player in players}:
            nothing = replaced_forward(model.get_submodule(name), lambda x, *_: torch.zeros_like(x))
            stack.enter_context(nothing)
        expected = adapter.logits(model, input_ids)
    assert torch.equal(bypassed(adapter, model, input_ids, range(len(players))), expected)
    staying = {player.group: player.index for player in players}.values()
    few = bypassed(adapter, model, input_ids, set(range(len(players))) - {*staying})
    assert few.isfinite().all()
    assert not torch.equal(few, expected)


def test_contexts_nest(adapter):
    model, input_ids = tiny("mixtral")
    n_players = len(adapter.players(model, "expert"))
    with adapter.bypass(model, set(range(n_players)) - {0, 9}, "expert"):
        found = bypassed(adapter, model, input_ids, {1, 9, 13})
    assert torch.equal(found, bypassed(adapter, model, input_ids, {0, 1, 9, 13}))


def test_cached_decoding_runs_without_absent_experts(adapter):
    model, input_ids = tiny("qwen3_moe")
    absent = set(one_of_each_group(adapter, model))
    removed = adapter.remove(copy.deepcopy(model), absent, "expert")
    expected = adapter.generate(removed, input_ids, 6, use_cache=True)
    with adapter.bypass(model, set(range(len(adapter.players(model, "expert")))) - absent, "expert"):
        assert torch.equal(adapter.generate(model, input_ids, 6, use_cache=True), expected)


def test_layers_and_router_groups_are_groups(adapter):
    model, _ = tiny("qwen2_moe")
    players = adapter.players(model, "expert")
    assert [player.group for player in players[::4]] == [0, 2, 3, 5]
    assert players[4].name == "model.layers.2.mlp.experts.0"
    assert {player.kind for player in players} == {"expert"}
    expert = model.model.layers[0].mlp.experts
    assert players[0].parameters == expert.gate_up_proj[0].numel() + expert.down_proj[0].numel() + 32
    stages = adapter.stack(model, "expert").stages(len(players))
    assert [len(stage) for stage in stages] == [4, 0, 4, 4, 0, 4]
    grouped, _ = tiny("deepseek_v3")
    assert [player.group for player in adapter.players(grouped, "expert")[:8]] == [4] * 4 + [5] * 4


def test_a_router_that_ranks_no_groups_has_none(adapter):
    model, input_ids = tiny("deepseek_v2", topk_method="greedy", n_group=None, topk_group=None)
    players = adapter.players(model, "expert")
    assert [player.group for player in players[::8]] == [2, 3, 4, 5]
    absent = set(one_of_each_group(adapter, model))
    expected = bypassed(adapter, model, input_ids, absent)
    removed = adapter.remove(model, absent, "expert")
    torch.testing.assert_close(adapter.logits(removed, input_ids), expected, rtol=0, atol=1e-5)


def test_shared_experts_and_dense_layers_stay(adapter):
    model, _ = tiny("qwen2_moe")
    whole = copy.deepcopy(model)
    adapter.remove(model, set(one_of_each_group(adapter, model)), "expert")
    assert model.config.num_experts == 3
    assert model.num_experts == 3
    assert model.config.num_experts_per_tok == 2
    changed = {
        name for name, weight in whole.named_parameters() if model.get_parameter(name).shape != weight.shape
    }
    assert {name.rpartition("mlp.")[2] for name in changed} == {
        "gate.weight",
        "experts.gate_up_proj",
        "experts.down_proj",
    }
    assert model.model.layers[0].mlp.gate.top_k == 2


def test_all_that_a_router_chooses_by_is_cut(adapter):
    model, _ = tiny("longcat_flash")
    layer = model.model.layers[0].mlp
    kept = [0, 1, 2, 4, 5]  # the last two have no weights
    bias, rows = layer.router.e_score_correction_bias[kept], layer.router.classifier.weight[kept]
    adapter.remove(model, set(one_of_each_group(adapter, model)), "expert")
    assert torch.equal(layer.router.e_score_correction_bias, bias)
    assert torch.equal(layer.router.classifier.weight, rows)
    assert (layer.experts.num_routed_experts, layer.experts.total_experts) == (3, 5)
    assert (layer.router.n_routed_experts, layer.router.classifier.out_features) == (5, 5)


@pytest.mark.parametrize(
    ("family", "changes", "reason"),
    [
        ("llama", {}, "a LlamaForCausalLM has no experts; use block"),
        ("jetmoe", {}, "laid out in an unknown way: self_attention.experts has no router beside it"),
        ("deepseek_v4", {}, "the router looks up its choice in a table, gate.tid2eid"),
        ("hunyuan_v1_moe", {"num_experts": [4] * 6}, "has no single number of experts"),
    ],
)
def test_other_models_have_no_experts_as_players(adapter, family, changes, reason):
    model, _ = tiny(family)
    vars(model.config).update(changes)
    with pytest.raises(UnsupportedModelError, match=reason):
        adapter.players(model, "expert")
    assert "expert" not in adapter.granularities(model)


def test_quantized_experts_are_no_players(adapter):
    model, _ = tiny("mixtral")
    model.config.quantization_config = {"quant_method": "fp8"}
    with pytest.raises(UnsupportedModelError, match="quantized"):
        adapter.players(model, "expert")


@pytest.mark.parametrize(
    ("family", "absent", "reason"),
    [
        ("mixtral", {0}, "layer 0 would have 3 experts and layer 1 4, but the config has one count"),
        ("mixtral", {0, 1, 5}, "layer 0 would have 2 experts and layer 2 4"),
        ("mixtral", set(range(24)), "layer 0 would have 0 experts, its router needs at least 2"),
        ("deepseek_v3", {0, 8, 16, 24}, r"the 2 router groups of layer 2 would differ in size: \[3, 4\]"),
        (
            "deepseek_v3",
            {index for index in range(32) if index % 4},
            "a router group of layer 2 would have 1 experts, its router needs at least 2",
        ),
    ],
)
def test_sets_that_no_config_can_express_are_refused(adapter, family, absent, reason):
    model, _ = tiny(family)
    before = {name: tensor.shape for name, tensor in model.state_dict().items()}
    with pytest.raises(UnsupportedModelError, match=reason):
        adapter.remove(model, absent, "expert")
    assert {name: tensor.shape for name, tensor in model.state_dict().items()} == before


def test_experts_of_which_none_can_go_are_not_removable(adapter):
    model, _ = tiny("mixtral", num_experts_per_tok=4)
    players = adapter.players(model, "expert")
    assert not any(player.removable for player in players)
    assert players[0].reason == "layer 0 would have 3 experts, its router needs at least 4"


def test_offloaded_experts_are_not_removed(adapter):
    model, _ = tiny("mixtral")
    expected = [player.index for player in adapter.players(model, "expert")][::4]
    model.model.layers.to("meta")
    assert adapter.can_remove(model, expected, "expert") == (
        "its experts are offloaded; load the whole model into memory to remove experts"
    )


def test_files_are_not_cut_where_experts_are_gone(adapter, tmp_path):
    model, _ = tiny("mixtral")
    adapter.save(model, tmp_path)
    loaded = adapter.load(tmp_path)
    assert not adapter.files_objection(loaded, tmp_path)
    adapter.remove(loaded, set(one_of_each_group(adapter, loaded)), "expert")
    assert (
        adapter.files_objection(loaded, tmp_path) == "the layers of the MixtralForCausalLM have lost experts"
    )


def test_an_expert_has_weights_and_no_parameters_of_its_own(adapter):
    model, _ = tiny("ernie4_5_moe")
    player = adapter.players(model, "expert")[5]
    weights = adapter.player_weights(model, player)
    layer = model.model.layers[2].mlp
    bias = layer.gate.moe_statics.e_score_correction_bias
    assert bias[0, 1].data_ptr() in {weight.data_ptr() for weight in weights}
    assert sum(weight.numel() for weight in weights) == player.parameters
    with pytest.raises(UnsupportedModelError, match="only slices"):
        adapter.player_parameters(model, player)
    assert adapter.output_projections(model, player) == ()


def test_offloaded_experts_run_as_others(adapter):
    model, input_ids = tiny("mixtral")
    n_players, absent = len(adapter.players(model, "expert")), {1, 6, 7}
    expected = bypassed(adapter, model, input_ids, absent)
    accelerate.cpu_offload(model, torch.device("cpu"))
    gate = model.model.layers[0].mlp.gate
    assert gate.weight.is_meta
    torch.testing.assert_close(bypassed(adapter, model, input_ids, absent), expected, rtol=0, atol=1e-5)
    found = run_stack(adapter.stack(model, "expert"), n_players, input_ids, absent)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    assert gate.weight.is_meta
