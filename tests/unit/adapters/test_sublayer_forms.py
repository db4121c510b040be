"""What is written without parts of blocks: shifted blocks, a sibling family, a modelling file."""

import copy
import json
import os
import subprocess
import sys
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from shapcut.models.forms import remnants_of_players
from shapcut.support.errors import UnsupportedModelError
from shapcut.support.quiet import quiet_libraries
from shapcut_adapters.transformers.adapter import HFDecoderAdapter
from shapcut_adapters.transformers.decoder import find_decoder
from shapcut_adapters.transformers.families import FAMILIES
from shapcut_adapters.transformers.sublayers.kept_parts import KeptLayer, KeptParts
from shapcut_adapters.transformers.tiny_models import tiny_model

FAMILY = {family.model_type: family for family in FAMILIES}
DEPTH = 4
WINDOW = {"sliding_window": 5, "use_sliding_window": True}
ALTERNATING = ["sliding_attention", "full_attention", "full_attention", "sliding_attention"]

VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "llama, tied": ("llama", {"tie_word_embeddings": True, "head_dim": 12}),
    "llama, biases": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "mistral": ("mistral", {}),
    "qwen2, windows": ("qwen2", {**WINDOW, "layer_types": ALTERNATING}),
    "qwen3": ("qwen3", {"use_sliding_window": False, "sliding_window": None}),
    "qwen3, windows": ("qwen3", {**WINDOW, "layer_types": ALTERNATING}),
    "gemma2, windows": ("gemma2", {"layer_types": ALTERNATING}),
    "gpt2": ("gpt2", {}),
    "opt": ("opt", {}),
    "qwen2_moe": ("qwen2_moe", {"mlp_only_layers": [1], "layer_types": None}),
    "qwen3_moe": ("qwen3_moe", {"mlp_only_layers": []}),
    "qwen3_next": (
        "qwen3_next",
        {"decoder_sparse_step": 1, "layer_types": ["linear_attention", "full_attention"] * 2},
    ),
}
FORMS = {
    "llama": {"same", "sibling", "remote-code"},
    "llama, tied": {"same", "sibling", "remote-code"},
    "llama, biases": {"same", "remote-code"},
    "mistral": {"same", "remote-code"},
    "qwen2, windows": {"same", "sibling", "remote-code"},
    "qwen3": {"same", "sibling", "remote-code"},
    "qwen3, windows": {"same", "remote-code"},
    "gemma2, windows": {"same"},
    "gpt2": {"same"},
    "opt": {"same"},
    "qwen2_moe": {"same", "sibling"},
    "qwen3_moe": {"same", "sibling"},
    "qwen3_next": {"same", "sibling"},
}
"""Of each variant, the forms in which it can lack some set of its parts."""

SHIFT = frozenset({1, 2})
"""The MLP of block 0 and the attention of block 1."""


def small(name: str) -> tuple[nn.Module, Tensor]:
    model_type, fields = VARIANTS[name]
    family = FAMILY[model_type]
    return tiny_model(replace(family, tiny={**family.tiny, family.depth_field: DEPTH, **fields}), 0)


@pytest.fixture(scope="module")
def adapter() -> HFDecoderAdapter:
    return HFDecoderAdapter()


def sets_by_form(adapter: HFDecoderAdapter, model: nn.Module) -> dict[str, list[frozenset[int]]]:
    """Sets of one to three parts by the form that is best for them, other than whole blocks."""
    found: dict[str, list[frozenset[int]]] = {}
    for size in (1, 2, 3):
        for absent in map(frozenset, combinations(range(2 * DEPTH), size)):
            if all(part ^ 1 in absent for part in absent):
                continue
            if forms := adapter.checkpoint_forms(model, absent, "sublayer"):
                found.setdefault(forms[0], []).append(absent)
    return found


def bypassed(adapter: HFDecoderAdapter, model: nn.Module, ids: Tensor, absent: frozenset[int]) -> Tensor:
    with adapter.bypass(model, frozenset(range(2 * DEPTH)) - absent, "sublayer"):
        return adapter.logits(model, ids)


def count(model: nn.Module) -> int:
    return sum(weight.numel() for weight in model.parameters())


@pytest.mark.parametrize("name", VARIANTS)
def test_what_is_written_computes_what_is_bypassed(
    name: str, adapter: HFDecoderAdapter, tmp_path: Path
) -> None:
    model, ids = small(name)
    found = sets_by_form(adapter, model)
    assert set(found) == FORMS[name]
    generator = np.random.default_rng(0)
    for form, sets in found.items():
        for place in generator.choice(
            len(sets), size=1 if form == "sibling" else min(2, len(sets)), replace=False
        ).tolist():
            absent, directory = sets[place], tmp_path / f"{form}-{place}"
            expected = bypassed(adapter, model, ids, absent)
            removed = adapter.remove_as(copy.deepcopy(model), absent, "sublayer", form)
            with quiet_libraries():
                adapter.save(removed, directory)
                reloaded = adapter.load(directory)
            for written in (removed, reloaded):
                torch.testing.assert_close(adapter.logits(written, ids), expected, rtol=0, atol=1e-5)
            cached, uncached = (adapter.generate(reloaded, ids, 6, use_cache=use) for use in (True, False))
            assert torch.equal(cached, uncached)
            said = sum(adapter.players(model, "sublayer")[part].parameters for part in absent)
            assert count(model) - count(reloaded) == said - adapter.remnants(model, absent, "sublayer", form)
            assert "per_layer_config" not in (directory / "config.json").read_text(encoding="utf-8")


def test_layer_lists_follow_the_part_that_they_describe(adapter: HFDecoderAdapter) -> None:
    model, _ = small("qwen2, windows")
    cut = adapter.remove(model, SHIFT, "sublayer")
    assert cut.config.layer_types == [ALTERNATING[block] for block in (0, 2, 3)]
    mixture, _ = small("qwen2_moe")  # block 1 has an ordinary MLP
    cut = adapter.remove_as(mixture, SHIFT, "sublayer", "same")
    assert cut.config.mlp_only_layers == [0]
    assert not hasattr(cut.model.layers[0].mlp, "experts")


def test_a_field_that_could_mean_either_part_is_refused(adapter: HFDecoderAdapter) -> None:
    model, _ = small("mistral")
    model.config.block_colours = ["red", "green", "blue", "grey"]
    assert "block_colours" in (adapter.can_remove(model, SHIFT, "sublayer") or "")
    assert adapter.can_remove(model, {2, 3}, "sublayer") is None


@pytest.mark.parametrize("model_type", ["gpt_neox", "phi", "cohere"])
def test_blocks_whose_parts_run_side_by_side_are_not_shifted(
    model_type: str, adapter: HFDecoderAdapter
) -> None:
    model, ids = tiny_model(FAMILY[model_type], 0)
    before = adapter.logits(model, ids)
    assert "the MLP of a later one" in (adapter.can_remove(model, SHIFT, "sublayer") or "")
    assert torch.equal(adapter.logits(model, ids), before)


def test_what_a_sibling_cannot_spell_is_refused_by_name(adapter: HFDecoderAdapter) -> None:
    biased, _ = small("llama, biases")
    objection = adapter.can_remove(biased, {1}, "sublayer") or ""
    assert "a qwen2_moe has no attention_bias (here True)" in objection
    windows, _ = small("qwen3, windows")
    assert "a qwen3_moe has no use_sliding_window" in (adapter.can_remove(windows, {1}, "sublayer") or "")
    mixture, _ = small("qwen2_moe")
    assert adapter.can_remove(mixture, {3}, "sublayer") is None  # the only ordinary MLP


def test_a_form_that_needs_code_is_not_taken_by_default(adapter: HFDecoderAdapter) -> None:
    model, ids = small("mistral")
    before = adapter.logits(model, ids)
    objection = adapter.can_remove(model, {2}, "sublayer") or ""
    assert objection.endswith("--form remote-code writes it with a modelling file")
    with pytest.raises(UnsupportedModelError, match="does not alternate attention and MLP"):
        adapter.remove(model, {2}, "sublayer")
    with pytest.raises(UnsupportedModelError):
        adapter.remove_as(model, {2}, "sublayer", "sibling")
    assert torch.equal(adapter.logits(model, ids), before)
    everything = set(range(1, 2 * DEPTH)) | {0}
    assert adapter.checkpoint_forms(model, everything, "sublayer") == ()
    assert adapter.checkpoint_forms(model, set(range(0, 2 * DEPTH, 2)), "sublayer") == ()


def test_what_stays_in_the_place_of_a_player_is_known_beforehand(adapter: HFDecoderAdapter) -> None:
    model, _ = small("llama")
    players = adapter.players(model, "sublayer")
    kept = remnants_of_players(adapter, model, players, "sublayer")
    for absent in (
        {1},
        {1, 5},
        {2, 3},
        {3, 4},
        {2, 3, 7},
        {3, 4, 7},
    ):
        cut = adapter.remove(copy.deepcopy(model), absent, "sublayer")
        freed = sum(players[index].parameters - kept[index] for index in absent)
        assert freed == count(model) - count(cut)
    code = remnants_of_players(adapter, model, players, "sublayer", "remote-code")
    assert code == [0, kept[1]] * DEPTH
    assert remnants_of_players(adapter, model, adapter.players(model), "block") == [0] * DEPTH


def test_files_are_not_cut_by_blocks_where_parts_have_moved(
    adapter: HFDecoderAdapter, tmp_path: Path
) -> None:
    model, _ = small("llama")
    with quiet_libraries():
        adapter.save(model, tmp_path)
    assert adapter.files_objection(model, tmp_path) == ""
    for form in ("sibling", "remote-code", "same"):
        cut = adapter.remove_as(copy.deepcopy(model), SHIFT, "sublayer", form)
        assert adapter.files_objection(cut, tmp_path)


def test_a_model_with_code_of_its_own_is_not_cut_again(adapter: HFDecoderAdapter) -> None:
    model, _ = small("llama")
    cut = adapter.remove_as(model, {2}, "sublayer", "remote-code")
    assert adapter.matches(cut)
    assert "trust_remote_code=True)\ntokenizer" in adapter.usage(cut)
    for granularity in ("block", "sublayer"):
        players = adapter.players(cut, granularity)
        assert not any(player.removable for player in players)
        assert "cut the original model instead" in players[0].reason
    with pytest.raises(UnsupportedModelError, match="cut the original model instead"):
        adapter.remove(cut, {1})


OUTSIDE = """
import json, sys
import torch
from transformers import AutoModelForCausalLM
directory, ids = sys.argv[1], torch.tensor(json.loads(sys.argv[2]))
loader = AutoModelForCausalLM
model, found = loader.from_pretrained(directory, output_loading_info=True, trust_remote_code=True)
assert not found["missing_keys"] and not found["unexpected_keys"], found
assert not any(name.startswith("shapcut") for name in sys.modules)
with torch.no_grad():
    logits = model.eval()(input_ids=ids).logits
print(json.dumps(logits.flatten().tolist()))
"""


def run_outside(directory: Path, code: str, ids: Tensor, cache: Path) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"HF_MODULES_CACHE": str(cache), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-I", "-c", code, str(directory), json.dumps(ids.tolist())]
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False
    )


def test_the_modelling_file_runs_without_shapcut(adapter: HFDecoderAdapter, tmp_path: Path) -> None:
    model, ids = small("qwen2, windows")
    absent = frozenset({0, 3, 4, 5})  # leading MLP, an attention alone, a block
    expected = bypassed(adapter, model, ids, absent)
    removed = adapter.remove_as(model, absent, "sublayer", "remote-code")
    with quiet_libraries():
        adapter.save(removed, tmp_path / "cut")
    found = run_outside(tmp_path / "cut", OUTSIDE, ids, tmp_path / "modules")
    assert found.returncode == 0, found.stderr
    logits = torch.tensor(json.loads(found.stdout.splitlines()[-1])).view_as(expected)
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-5)
    refused = run_outside(
        tmp_path / "cut", OUTSIDE.replace(", trust_remote_code=True", ""), ids, tmp_path / "modules"
    )
    assert refused.returncode != 0
    assert "trust_remote_code=True" in refused.stderr


def test_another_modelling_file_is_never_run_here(adapter: HFDecoderAdapter, tmp_path: Path) -> None:
    model, ids = small("llama")
    removed = adapter.remove_as(model, {2}, "sublayer", "remote-code")
    with quiet_libraries():
        adapter.save(removed, tmp_path)
        (tmp_path / "modeling_shapcut.py").write_text("raise SystemExit('run')", encoding="utf-8")
        reloaded = adapter.load(tmp_path)
    assert torch.equal(adapter.logits(reloaded, ids), adapter.logits(removed, ids))


def test_the_trap_of_transformers_is_still_one() -> None:
    """A config that says to skip a layer's attention is taken, and nothing is skipped; see decision 13."""
    model, ids = small("llama")
    skipping = copy.deepcopy(model)
    try:
        skipping.config.per_layer_config = {1: {"skip": ["attention"]}}
        again = type(model)(skipping.config)
        again.load_state_dict(model.state_dict())
    except (TypeError, ValueError, AttributeError, NotImplementedError):
        pytest.skip("this transformers refuses per_layer_config")
    logits = (each.eval()(input_ids=ids).logits for each in (model, again))
    assert torch.equal(*logits), "transformers skips parts now: a plain form for single attentions exists"


@pytest.mark.parametrize(
    ("absent", "leading", "layers", "pairs"),
    [
        ({1, 2}, (), ((0, (1,)), (2, (2,))), ((0, 1), (2, 2))),
        ({0}, (0,), ((1, (1,)), (2, (2,))), None),
        ({2}, (), ((0, (0, 1)), (2, (2,))), None),
        ({1}, (), ((0, ()), (1, (1,)), (2, (2,))), None),
        ({0, 2, 4}, (0, 1, 2), (), None),
        ({1, 2, 3, 4}, (), ((0, (2,)),), ((0, 2),)),
    ],
)
def test_kept_parts(absent: set[int], leading: Any, layers: Any, pairs: Any) -> None:
    kept = KeptParts.without(3, absent)
    assert kept.leading == leading
    assert kept.layers == tuple(KeptLayer(*layer) for layer in layers)
    assert kept.pairs == pairs


def test_the_decoder_is_found_again_after_a_shift(adapter: HFDecoderAdapter) -> None:
    model, ids = small("llama")
    expected = bypassed(adapter, model, ids, SHIFT | {5, 6})
    once = adapter.remove(model, SHIFT, "sublayer")
    assert len(find_decoder(once).blocks) == DEPTH - 1
    twice = adapter.remove(once, {3, 4}, "sublayer")
    torch.testing.assert_close(adapter.logits(twice, ids), expected, rtol=0, atol=1e-5)
