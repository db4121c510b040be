"""The cut as other tools write it."""

from typing import Any

import pytest
import yaml

from shapcut.export.gguf_rules import ARCHITECTURES, PLAIN
from shapcut.export.other_tools import export_hints, kept_ranges, mergekit_recipe
from shapcut.game.plan import RemovalPlan
from shapcut_adapters.transformers.adapter import HFDecoderAdapter
from shapcut_adapters.transformers.families import FAMILIES

ADAPTER = HFDecoderAdapter()


@pytest.mark.parametrize("removed", [(0,), (9,), (0, 9), (4, 5, 7), (1, 3, 5, 7), tuple(range(1, 10))])
def test_the_mergekit_slices_give_back_the_kept_blocks(removed: tuple[int, ...]) -> None:
    plan = RemovalPlan.removing(removed, 10)
    content = yaml.safe_load(mergekit_recipe(plan, "some/model", "bfloat16"))
    assert content["merge_method"] == "passthrough"
    sources: list[Any] = [source for part in content["slices"] for source in part["sources"]]
    assert {source["model"] for source in sources} == {"some/model"}
    blocks = [block for source in sources for block in range(*source["layer_range"])]
    assert tuple(blocks) == plan.kept
    assert len(sources) == len(kept_ranges(plan)) <= len(removed) + 1


def test_llama_cpp_gets_the_removed_blocks() -> None:
    model, _ = ADAPTER.example(0)
    text = export_hints(ADAPTER, model, RemovalPlan.removing((3, 1), 6), "m")
    assert "llama-quantize --prune-layers 1,3 " in text
    assert "dtype: float32" in text


def test_a_gguf_file_gets_no_recipe_of_mergekit() -> None:
    model, _ = ADAPTER.example(0)
    text = export_hints(ADAPTER, model, RemovalPlan.removing((1,), 6), "some/model.gguf")
    assert "--prune-layers 1 " in text
    assert "mergekit" not in text


def test_llama_cpp_derives_nothing_from_the_blocks_of_plain_families() -> None:
    plain = {family.model_type for family in FAMILIES if family.plain}
    assert {"llama", "qwen2", "qwen3", "phi3"} <= plain
    assert all(ARCHITECTURES.get(name, PLAIN) == PLAIN for name in plain)
    assert not {"gemma2", "gemma3_text", "gpt_oss", "cohere2", "exaone4", "smollm3"} & plain


def test_only_plain_families_get_hints() -> None:
    model, _ = ADAPTER.examples()["mamba"](0)
    assert export_hints(ADAPTER, model, RemovalPlan.removing((1,), 6), "m") == ""


def test_a_list_of_layer_types_that_other_tools_would_not_cut_gets_no_hints() -> None:
    model: Any = ADAPTER.examples()["qwen3"](0)[0]
    for types in (["full_attention"], ["sliding_attention", "full_attention"]):
        model.config.layer_types = types * (6 // len(types))
        text = export_hints(ADAPTER, model, RemovalPlan.removing((1,), 6), "m")
        assert bool(text) == (len(types) == 1)
