"""A family for each mechanism passes the whole kit; every other one is exact when blocks go for good.

`benchmarks/families.py` tries them all; its result is kept and `tests/meta/test_tables.py` reads it.
"""

import pytest

from shapcut.testing import CHECKS, run_check
from shapcut_adapters.transformers.families import FAMILIES, WRAPPERS

MECHANISMS = {
    "llama": "nothing beside the depth",
    "gemma3_text": "two kinds of layers, soft caps, windows",
    "smollm3": "layers without positions",
    "gpt2": "another depth field by an alias",
    "falcon": "blocks that return tuples",
    "openai-gpt": "blocks that return lists",
    "bloom": "arguments that carry the batch",
    "cpmant": "no fast path, and a cache that is at fault in the whole model",
    "gpt_neo": "kinds of layers written as a pattern",
    "gpt_neox_japanese": "a last layer unlike the others",
    "bart": "a depth field beside that of an encoder",
    "bert": "an encoder as decoder",
    "laguna": "a number of heads for each layer",
    "qwen3_moe": "layers listed by index",
    "mamba2": "no attention at all",
    "rwkv": "weights rescaled in place, a norm that only block 0 has, a state beside the hidden state",
    "jamba": "kinds of layers that follow from two periods",
    "zamba2": "weights shared in turn, parameters numbered by kind: rebuilt",
    "gemma4_text": "keys and values of other layers, a slice of the embedding for each layer: rebuilt",
    "hy_v4": "tokens that another layer chose, parallel streams",
    "deepseek_v3": "dense layers first",
    "minicpm3": "a residual scale that follows the depth",
    "diffllama": "attention that follows the index: refused",
}
FAMILY_NAMES = [family.model_type for family in FAMILIES]
PUBLISHED_FIELDS = ("deepseek_v32", "glm4_moe", "kimi_linear", "mimo_v2_flash", "recurrent_gemma", "zamba")
"""Families with fields of the layers that transformers does not read, or that are periods."""
OTHERS = [name for name in FAMILY_NAMES if name not in MECHANISMS]


def test_every_claimed_family_has_an_example(adapter):
    assert list(adapter.examples()) == [*FAMILY_NAMES, *(wrapper.model_type for wrapper in WRAPPERS)]
    assert len(set(FAMILY_NAMES)) == len(FAMILY_NAMES)


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("family_case", MECHANISMS, indirect=True)
def test_conformance(family_case, check):
    result = run_check(family_case, check)
    assert result.passed, result.detail


@pytest.mark.parametrize("family_case", OTHERS, indirect=True)
def test_blocks_removed_for_good(family_case, tmp_path):
    if family_case.no_removal:
        pytest.skip(family_case.no_removal)
    absent = family_case.removable_sets[-1]
    reference = family_case.reference(absent)
    comparison = family_case.comparison()
    effect = comparison.effect(reference, "removed")
    family_case.adapter.save(family_case.removed(absent), tmp_path)
    reloaded = family_case.adapter.load(tmp_path)
    comparison.same(family_case.logits(reloaded), reference, effect, f"{sorted(absent)} removed")


@pytest.mark.parametrize("family_case", PUBLISHED_FIELDS, indirect=True)
def test_no_field_describes_the_old_depth(family_case):
    result = run_check(family_case, "config-follows-depth")
    assert result.passed, result.detail
