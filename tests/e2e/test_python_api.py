"""The Python functions on names and on models in memory."""

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM

import shapcut
from shapcut.cli.exits import BAD_INPUT
from shapcut.cli.main import run
from shapcut.pipeline.result import PruneResult
from shapcut.support.errors import InputError
from shapcut.support.html_table import html_table

SMALL: dict[str, Any] = {"samples": 2, "sequence_length": 32, "held_out_samples": 2, "budget": 12}


def loaded(directory: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(directory).eval()


def test_a_model_in_memory_is_pruned_as_one_on_disk(
    tiny_llama_directory: Path, tokenizer: Any, tmp_path: Path
) -> None:
    named = shapcut.prune(str(tiny_llama_directory), out=tmp_path / "named", remove=2, **SMALL)
    assert isinstance(named, PruneResult)
    model = loaded(tiny_llama_directory)
    pruned = shapcut.prune(model, tokenizer, remove=2, **SMALL)
    assert isinstance(pruned, shapcut.PrunedModel)
    assert pruned.plan.removed == named.plan.removed
    assert pruned.model.config.num_hidden_layers == 4
    assert pruned.after.perplexity == named.after.perplexity
    assert pruned.contributions.values.shape == (6,)
    whole = loaded(tiny_llama_directory)
    written = shapcut.prune(whole, tokenizer, out=tmp_path / "out", remove=2, **SMALL)
    assert isinstance(written, PruneResult)
    assert written.plan.removed == named.plan.removed
    assert whole.config.num_hidden_layers == 6
    assert loaded(tmp_path / "out").config.num_hidden_layers == 4
    assert sorted(path.name for path in tmp_path.iterdir()) == ["named", "named.run", "out", "out.run"]
    assert "in-memory:LlamaForCausalLM" in (tmp_path / "out" / "README.md").read_text()
    texts = [path.read_text() for path in tmp_path.rglob("*") if path.suffix in {".md", ".json", ".yaml"}]
    assert not any("shapcut-original" in text for text in texts)
    assert run(["inspect", "in-memory:LlamaForCausalLM"]) == BAD_INPUT
    for outcome in (pruned, written):
        first, second, *_ = str(outcome).splitlines()
        assert first == f"removed 2 of 6 players: {', '.join(map(str, named.plan.removed))}"
        assert second.startswith("held-out perplexity: ")
    for result in (pruned, written, pruned.plan, pruned.contributions):
        assert result._repr_html_().startswith("<table>")


def test_what_cannot_be_done_in_memory_is_refused(tiny_llama_directory: Path, tokenizer: Any) -> None:
    model = loaded(tiny_llama_directory)
    with pytest.raises(InputError, match="tokenizer is missing"):
        shapcut.prune(model, remove=2)
    with pytest.raises(InputError, match="out is missing"):
        shapcut.prune(str(tiny_llama_directory), remove=2)
    with pytest.raises(InputError, match="needs a checkpoint"):
        shapcut.prune(model, tokenizer, remove=2, then=["cast"])
    with pytest.raises(InputError, match="one target"):
        shapcut.prune(model, tokenizer, remove=(1, 2))
    with pytest.raises(InputError, match="training mode"):
        shapcut.prune(model.train(), tokenizer, remove=2)


def test_models_are_measured_inspected_and_compared(
    tiny_llama_directory: Path, tokenizer: Any, tmp_path: Path
) -> None:
    name, model = str(tiny_llama_directory), loaded(tiny_llama_directory)
    here = shapcut.evaluate(model, tokenizer, windows=2, window=32, repeats=0)
    there = shapcut.evaluate(name, windows=2, window=32, repeats=0)
    assert here.perplexity == there.perplexity
    assert (here.checkpoint_bytes, there.latency) == (None, None)
    assert there.checkpoint_bytes is not None
    assert shapcut.inspect(model).players == shapcut.inspect(name).players
    asked = SMALL | {"methods": "random,last-n", "remove": 2, "run": tmp_path / "run"}
    comparison = shapcut.compare(name, **asked)
    assert [row.method for row in comparison.rows] == ["random", "last-n"]
    assert shapcut.compare(name, **asked).rows == comparison.rows
    assert "last-n" in comparison._repr_html_()


def test_a_config_alone_is_inspected(tiny_llama_directory: Path, tmp_path: Path, capfd: Any) -> None:
    config = tmp_path / "model" / "config.json"
    config.parent.mkdir()
    config.write_bytes((tiny_llama_directory / "config.json").read_bytes())
    whole = shapcut.inspect(str(tiny_llama_directory))
    for name in (config.parent, config, tiny_llama_directory / "config.json"):
        found = shapcut.inspect(str(name))
        assert found.players == whole.players
        assert (found.fast_evaluation, whole.fast_evaluation) == (None, True)
    assert run(["inspect", str(config)]) == 0
    assert "read from its config alone" in capfd.readouterr().out
    assert run(["inspect", str(config.parent), "--json"]) == 0
    content = json.loads(capfd.readouterr().out)
    assert (content["from_config"], len(content["players"])) == (True, 6)


def test_tables_are_escaped() -> None:
    table = html_table("<b>", ("<i>",), [("<script>",), (1,)])
    assert "<b>" not in table
    assert "<script>" not in table
    assert "<td>1</td>" in table
