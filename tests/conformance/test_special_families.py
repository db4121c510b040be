"""What is particular to families whose layers know their place, keep a state, or share weights."""

import copy
import dataclasses

import pytest
import torch

from shapcut.support.errors import ShapcutError, UnsupportedModelError
from shapcut_adapters.transformers.families import FAMILIES
from shapcut_adapters.transformers.tiny_models import tiny_model

FAMILY = {family.model_type: family for family in FAMILIES}


def tiny(model_type, **changes):
    family = FAMILY[model_type]
    return tiny_model(dataclasses.replace(family, tiny={**family.tiny, **changes}), 0)


def bypassed(adapter, model, input_ids, absent):
    with adapter.bypass(model, set(range(len(adapter.players(model)))) - set(absent)):
        return adapter.logits(model, input_ids)


def test_rwkv_is_put_right_even_after_it_has_run(adapter, tmp_path):
    fresh, input_ids = tiny("rwkv")
    canonical = adapter.canonicalise(copy.deepcopy(fresh))
    fresh(input_ids=input_ids)
    assert any(not torch.equal(a, b) for a, b in zip(fresh.parameters(), canonical.parameters(), strict=True))
    assert not any(player.removable for player in adapter.players(fresh))
    late = adapter.canonicalise(fresh)
    assert not late.training
    assert all(torch.equal(a, b) for a, b in zip(late.parameters(), canonical.parameters(), strict=True))
    removed = adapter.remove(late, {0, 3})
    adapter.save(removed, tmp_path)
    assert torch.equal(adapter.logits(adapter.load(tmp_path), input_ids), adapter.logits(removed, input_ids))


def test_rwkv_keeps_the_norm_of_what_enters(adapter):
    model, _ = tiny("rwkv")
    model = adapter.canonicalise(model)
    norm = model.rwkv.blocks[0].pre_ln
    before = adapter.players(model)[0].parameters
    assert before == adapter.players(model)[1].parameters
    adapter.remove(model, {0, 1})
    assert model.rwkv.blocks[0].pre_ln is norm


def test_a_state_is_refused_while_blocks_are_bypassed(adapter):
    model, input_ids = tiny("rwkv")
    model = adapter.canonicalise(model)
    state = model(input_ids=input_ids, use_cache=True).state
    with (
        adapter.bypass(model, {1, 2}),
        pytest.raises(ShapcutError, match="state"),
    ):
        model(input_ids=input_ids, state=state)


def test_a_model_is_rebuilt_beside_the_old_one_and_shares_its_weights(adapter):
    model, input_ids = tiny("zamba")
    model.train()
    full = adapter.logits(model, input_ids)
    removed = adapter.remove(model, {0, 1})
    assert removed is not model
    assert removed.training
    assert torch.equal(adapter.logits(model, input_ids), full)
    old, new = model.model.layers[2].mamba.in_proj.weight, removed.model.layers[0].mamba.in_proj.weight
    assert old.data_ptr() == new.data_ptr()
    shared = [layer.shared_transf.self_attn.q_proj.weight for layer in removed.model.layers[1::2]]
    assert all(weight is shared[0] for weight in shared)
    assert removed.config.num_hidden_layers == 4


def test_slices_for_each_layer_go_with_it(adapter):
    model, _ = tiny("gemma3n_text")
    table = model.model.embed_tokens_per_layer.weight.unflatten(1, (8, -1))
    removed = adapter.remove(model, {0, 6})
    kept = removed.model.embed_tokens_per_layer.weight.unflatten(1, (6, -1))
    assert torch.equal(kept, table[:, [1, 2, 3, 4, 5, 7]])
    assert removed.config.num_kv_shared_layers == 2


@pytest.mark.parametrize(
    ("family", "absent", "reason"),
    [
        ("bamba", {1, 4}, "0 full_attention"),
        ("zamba", {1, 3}, "1 hybrid layers"),
        ("zamba2", {1}, "turns would shift"),
        ("jamba", {3}, "expert_layer_period"),
        ("gemma4_text", {4}, "keys and values"),
        ("gemma4_text", {6, 7}, "layer 5 would be the last"),
        ("modernbert-decoder", {0}, "no norm"),
        ("diffllama", {1}, "index"),
        ("beam", {5}, "index"),
        ("hy_v4", {0}, "choice of tokens"),
    ],
)
def test_what_cannot_be_exact_is_refused_in_one_line_before_the_model_is_touched(
    adapter, family, absent, reason
):
    model, input_ids = tiny(family)
    full, depth = adapter.logits(model, input_ids), len(adapter.players(model))
    objection = adapter.can_remove(model, absent)
    assert reason in objection
    assert "\n" not in objection
    with pytest.raises(UnsupportedModelError, match=reason):
        adapter.remove(model, absent)
    assert len(adapter.players(model)) == depth
    assert torch.equal(adapter.logits(model, input_ids), full)


def test_a_block_that_others_use_cannot_be_absent(adapter):
    model, _ = tiny("gemma4_text")
    with pytest.raises(UnsupportedModelError, match="keys and values"), adapter.bypass(model, {0, 1}):
        pass


def test_convolutions_of_a_layer_keep_their_own_numbers(adapter):
    model, input_ids = tiny("inkling_text")
    removed = adapter.remove(model, {0})
    layer = removed.model.layers[1]
    assert (layer.self_attn.k_sconv.conv_idx, layer.self_attn.v_sconv.conv_idx) == (0, 1)
    cached, uncached = (adapter.generate(removed, input_ids, 4, use_cache=use) for use in (True, False))
    assert torch.equal(cached, uncached)


def test_a_state_beside_the_hidden_state_is_passed_on(adapter):
    model, input_ids = tiny("zaya")
    removed = adapter.remove(copy.deepcopy(model), {2, 3})
    torch.testing.assert_close(
        adapter.logits(removed, input_ids), bypassed(adapter, model, input_ids, {2, 3})
    )
    assert adapter.stack(model) is None


def test_a_sparse_step_becomes_an_explicit_list(adapter):
    model, _ = tiny("qwen3_next")
    assert model.config.decoder_sparse_step == 2
    adapter.remove(model, {1})
    assert (model.config.decoder_sparse_step, model.config.mlp_only_layers) == (1, [0, 1, 3])


def test_gemma_4_is_rebuilt_only_for_what_its_layers_share(adapter, tmp_path):
    model, input_ids = tiny("gemma4_text", num_kv_shared_layers=0, hidden_size_per_layer_input=0)
    model.save_pretrained(tmp_path / "source")
    expected = bypassed(adapter, model, input_ids, {1, 3})
    assert adapter.files_objection(model, tmp_path / "source") == ""
    assert adapter.remove(model, {1, 3}) is model
    adapter.save_files(model, tmp_path / "source", tmp_path / "out")
    assert torch.equal(adapter.logits(adapter.load(tmp_path / "out"), input_ids), expected)
