"""Parts of blocks and the experts in them as players of one game."""

import pytest
import torch

from shapcut.game.mixed import mixed_layers
from shapcut.support.errors import UnsupportedModelError
from shapcut.testing import CHECKS, cases_of, run_check
from shapcut_adapters.transformers.adapter import HFDecoderAdapter

MECHANISMS = {
    "qwen3_moe": "a sibling without a mixture in some layers",
    "deepseek_v2": "shared experts, dense layers first, groups of the router",
}
LAYOUTS = {"mixtral": "no sibling", "gpt_oss": "biases of experts and router"}
OF_LAYOUTS = (
    "stack-equals-bypass",
    "remove-equals-bypass",
    "reload-equals-removed",
    "removal-composes",
    "parameter-count",
)
"""`benchmarks/results/mixed_families.json` has all families."""


def the_case(family):
    adapter = HFDecoderAdapter()
    cases = cases_of(adapter, family, adapter.examples()[family])
    (case,) = (case for case in cases if case.granularity == "mixed")
    return case


@pytest.fixture(scope="module")
def case(request):
    return the_case(request.param)


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("case", MECHANISMS, indirect=True)
def test_conformance(case, check):
    result = run_check(case, check)
    assert result.passed, result.detail


@pytest.mark.parametrize("check", OF_LAYOUTS)
@pytest.mark.parametrize("case", LAYOUTS, indirect=True)
def test_parts_and_experts_removed_for_good(case, check):
    result = run_check(case, check)
    assert result.passed, result.detail


@pytest.mark.parametrize("case", ["qwen3_moe", "mixtral", "deepseek_v2"], indirect=True)
def test_all_kinds_of_cuts_were_removed(case):
    """Or the checks above say little; only Qwen's have a sibling without a mixture."""
    seen = set()
    for absent in case.removable_sets:
        layers = mixed_layers(case.players)
        whole = {layer.name for layer in layers if absent.issuperset(layer.players)}
        mixtures = {layer.name for layer in layers if layer.owner in absent} - whole
        experts = any(
            absent.intersection(layer.experts) for layer in layers if layer.name not in whole | mixtures
        )
        seen.add((bool(whole), bool(mixtures), experts))
    assert {(True, False, False), (False, False, True), (True, False, True)} <= seen
    if case.name.startswith("qwen"):
        assert {(False, True, False), (False, True, True), (True, True, True)} <= seen


def model_and_layers(family="qwen3_moe"):
    adapter = HFDecoderAdapter()
    model, _ = adapter.examples()[family](0)
    return adapter, model, mixed_layers(adapter.players(model, "mixed"))


def test_players_of_a_block_are_its_parts_and_then_its_experts():
    adapter, model, layers = model_and_layers()
    players, blocks = adapter.players(model, "mixed"), adapter.players(model)
    assert [player.index for player in players] == list(range(len(players)))
    first = layers[0].players
    assert [players[one].kind for one in first] == ["attention", "mlp", *["expert"] * (len(first) - 2)]
    assert [players[one].group for one in first[:3]] == [None, None, 0]
    for block, layer in zip(blocks, layers, strict=True):
        assert sum(players[one].parameters for one in layer.players) == block.parameters
        assert layer.name == block.name
    assert adapter.stack(model, "mixed").stages(len(players)) == [
        range(layer.players[0], layer.players[-1] + 1) for layer in layers
    ]
    assert adapter.granularities(model)[-1] == "mixed"


def test_refusals_name_what_is_wrong():
    adapter, model, layers = model_and_layers()
    first, second = [layer for layer in layers if layer.experts][:2]
    objection = adapter.can_remove(model, {first.owner}, "mixed")
    assert objection == (
        f"player {first.owner} takes its experts with it: name players {first.experts[0]} to "
        f"{first.experts[-1]}, too"
    )
    uneven = {*first.mixture, second.experts[0]}
    objection = adapter.can_remove(model, uneven, "mixed")
    assert "would have" in objection
    assert "one count for all layers" in objection
    everyone = range(len(adapter.players(model, "mixed")))
    assert adapter.can_remove(model, everyone, "mixed") == "no player would stay, at least 1 is needed"
    alone = {first.parts[0]}
    assert adapter.checkpoint_forms(model, alone, "mixed") == ()
    for wrong in ({first.owner}, uneven, alone):
        with pytest.raises(UnsupportedModelError):
            adapter.remove(model, wrong, "mixed")
    assert adapter.players(model, "mixed") == model_and_layers()[0].players(model, "mixed")


def test_a_mixture_needs_a_sibling_to_lose_its_moe_part():
    adapter, model, layers = model_and_layers("mixtral")
    assert "mixtral" in adapter.can_remove(model, layers[1].mixture, "mixed")
    assert adapter.can_remove(model, layers[1].players, "mixed") is None


def test_models_without_experts_or_parts_have_no_mixed_players():
    adapter = HFDecoderAdapter()
    model, _ = adapter.examples()["llama"](0)
    with pytest.raises(UnsupportedModelError, match="has no experts"):
        adapter.players(model, "mixed")
    assert adapter.granularities(model) == ("block", "sublayer")


def test_experts_of_an_absent_part_make_no_difference():
    adapter, model, layers = model_and_layers()
    _, input_ids = adapter.examples()["qwen3_moe"](0)
    everyone = set(range(len(adapter.players(model, "mixed"))))
    found = []
    for absent in ({layers[0].owner}, {*layers[0].mixture[:3]}, {*layers[0].mixture}):
        with adapter.bypass(model, everyone - absent, "mixed"):
            found.append(adapter.logits(model, input_ids))
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])
