"""A multimodal checkpoint is pruned whole; --text-only writes its language model and says what is dropped."""

from pathlib import Path
from typing import Any

import pytest
import torch
from heard import Heard
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText

from shapcut.game.plan import RemovalPlan
from shapcut.host.host import build_host
from shapcut.pipeline.prune import apply_plan
from shapcut.recipe.recipe import make_recipe
from shapcut.support.errors import InputError, UnsupportedModelError
from shapcut.support.quiet import quiet_libraries
from shapcut_adapters.transformers.families import WRAPPERS

PLAN = RemovalPlan.removing([2, 4], 6)
IDS = torch.arange(2, 42).reshape(2, 20)


def build(name: str, tokenizer: Any, directory: Path) -> Path:
    (wrapper,) = [wrapper for wrapper in WRAPPERS if wrapper.model_type == name]
    fields = wrapper.config_fields()
    fields["text_config"] |= {"vocab_size": 400, "max_position_embeddings": 256}
    for field in fields:
        if field.endswith(("token_id", "token_index")):
            fields[field] += 300
    with torch.random.fork_rng(), quiet_libraries():
        torch.manual_seed(0)
        model: Any = AutoModelForImageTextToText.from_config(AutoConfig.for_model(name, **fields))
        for parameter in model.parameters():
            parameter.data.add_(torch.randn_like(parameter) * 0.05)
        model.save_pretrained(directory)
        tokenizer.save_pretrained(directory)
    return directory


def apply(source: Path, out: Path, **more: Any) -> Heard:
    options = {"samples": 4, "sequence_length": 32, "finalist_samples": 0, "held_out_samples": 2, **more}
    heard = Heard()
    recipe = make_recipe({"model": str(source), "remove": 2, **options})
    apply_plan(recipe, PLAN, out, build_host(), reporter=heard)
    return heard


def bypassed(model: Any, layers: Any) -> torch.Tensor:
    for index in PLAN.removed:
        layers[index].forward = lambda hidden_states, *_, **__: hidden_states
    with torch.no_grad():
        return model(IDS, use_cache=False).logits


@pytest.mark.parametrize("name", ["gemma3", "qwen3_5", "smolvlm"])
def test_a_multimodal_checkpoint_stays_whole(name: str, tokenizer: Any, tmp_path: Path) -> None:
    source = build(name, tokenizer, tmp_path / "source")
    apply(source, tmp_path / "out")
    with quiet_libraries():
        whole: Any = AutoModelForImageTextToText.from_pretrained(source).eval()
        cut: Any = AutoModelForImageTextToText.from_pretrained(tmp_path / "out").eval()
    vision = [name for name in whole.state_dict() if "vision" in name or "visual" in name]
    assert vision
    assert all(torch.equal(cut.state_dict()[name], whole.state_dict()[name]) for name in vision)
    with torch.no_grad():
        got = cut(IDS, use_cache=False).logits
    assert torch.allclose(got, bypassed(whole, whole.get_decoder().layers), atol=1e-5)
    assert "AutoModelForImageTextToText" in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.parametrize("name", ["gemma3", "qwen3_5", "llava"])
def test_text_only_writes_the_language_model(name: str, tokenizer: Any, tmp_path: Path) -> None:
    source = build(name, tokenizer, tmp_path / "source")
    heard = apply(source, tmp_path / "out", text_only=True)
    assert any("--text-only drops" in line for line in heard.said)
    with quiet_libraries():
        whole: Any = AutoModelForImageTextToText.from_pretrained(source).eval()
        cut: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    assert type(cut).__name__.endswith("ForCausalLM")
    assert not hasattr(cut.config, "vision_config")
    with torch.no_grad():
        got = cut(IDS, use_cache=False).logits
    assert torch.allclose(got, bypassed(whole, whole.get_decoder().layers), atol=1e-5)


def test_text_only_of_a_language_model_is_refused(tiny_llama_directory: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--text-only is for multimodal models"):
        apply(tiny_llama_directory, tmp_path / "out", text_only=True)


def test_a_multimodal_kind_that_was_not_tried_is_refused_with_what_to_do(
    tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = build("gemma3", tokenizer, tmp_path / "source")
    monkeypatch.setattr("shapcut_adapters.transformers.families.multimodal._KNOWN", set())
    with pytest.raises(UnsupportedModelError, match="--text-only prunes its language model alone"):
        apply(source, tmp_path / "out")
