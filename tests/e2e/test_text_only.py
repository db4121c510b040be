"""A multimodal checkpoint is pruned whole; --text-only writes its language model and says what is dropped."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from heard import Heard
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText

from shapcut.cli.main import run
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


BRIEF = ("--window", "32", "--held-out-samples", "2", "--repeats", "0", "--cache-lengths", "none", "--json")


def evaluated(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    assert run(["evaluate", *arguments, *BRIEF]) == 0, capsys.readouterr().err
    figures: dict[str, Any] = json.loads(capsys.readouterr().out)
    return figures


def test_a_language_model_is_judged_against_the_one_that_it_was_cut_from(
    tokenizer: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, out = build("gemma3", tokenizer, tmp_path / "source"), tmp_path / "out"
    apply(source, out, text_only=True)
    whole = evaluated(capsys, str(source))
    alone = evaluated(capsys, str(source), "--text-only")
    assert alone["perplexity"]["perplexity"] == pytest.approx(whole["perplexity"]["perplexity"], rel=1e-5)
    assert alone["parameters"] < whole["parameters"]
    assert (alone["checkpoint_bytes"], whole["checkpoint_bytes"] is None) == (None, False)
    assert "no checkpoint size: its files hold more than the language model" in alone["notes"]
    both = evaluated(capsys, str(out), "--against", str(source), "--text-only")
    original, cut = both["against"], both["model"]
    assert original["parameters"] == alone["parameters"] > cut["parameters"]
    assert cut["checkpoint_bytes"] is not None


def test_evaluate_refuses_text_only_where_no_model_is_multimodal(
    tiny_llama_directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = str(tiny_llama_directory)
    assert run(["evaluate", model, "--against", model, "--text-only", *BRIEF]) == 2
    assert "--text-only is for multimodal models" in capsys.readouterr().err


def test_compare_cuts_the_whole_model_or_its_language_model(
    tokenizer: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = build("gemma3", tokenizer, tmp_path / "source")
    options = ["--methods", "random", "--remove", "2", "--samples", "2", "--sequence-length", "32", "--json"]
    rows = []
    for name, more in (("whole", ()), ("alone", ("--text-only",))):
        command = ["compare", str(source), *options, "--run", str(tmp_path / name), *more]
        assert run(command) == 0, capsys.readouterr().err
        (row,) = json.loads(capsys.readouterr().out)["rows"]
        rows.append(row)
    assert rows[0]["removed"] == rows[1]["removed"]
    assert rows[0]["held_out_perplexity"] == pytest.approx(rows[1]["held_out_perplexity"], rel=1e-5)
