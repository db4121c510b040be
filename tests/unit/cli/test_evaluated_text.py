"""The text that `shapcut evaluate` judges a pruned checkpoint on, and what the help and `adapters` show."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from shapcut.cli.main import run

SIZES = ["--samples", "2", "--finalist-samples", "0", "--budget", "10"]
FAST = ["--repeats", "0", "--cache-lengths", "none"]


@pytest.fixture(scope="module")
def pruned(tiny_llama_directory: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A checkpoint that was judged on a text of its own, and that text."""
    directory = tmp_path_factory.mktemp("judged")
    text = directory / "own.txt"
    text.write_text("".join(f"{number} is a number. " for number in range(900)))
    judged = ["--calibration", str(text), "--sequence-length", "24", "--held-out-samples", "3"]
    command = ["prune", str(tiny_llama_directory), "--out", str(directory / "out"), "--remove", "1"]
    assert run([*command, *judged, *SIZES]) == 0
    return directory / "out", text


def evaluated(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    assert run(["evaluate", *arguments, *FAST, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_checkpoint_is_judged_on_the_text_of_its_own_recipe(
    pruned: tuple[Path, Path], tiny_llama_directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, text = pruned
    result = json.loads((out.with_name("out.run") / "result.json").read_text())["pruned"]
    found = evaluated(capsys, str(out))
    assert found["held_out_source"] == str(text)
    assert found["held_out_fingerprint"] == result["held_out_fingerprint"]
    assert found["perplexity"]["perplexity"] == pytest.approx(result["perplexity"]["perplexity"], rel=1e-5)
    assert f"{result['perplexity']['perplexity']:.3f}" in (out / "README.md").read_text()
    beside = evaluated(capsys, str(tiny_llama_directory), "--against", str(out))
    assert beside["model"]["held_out_source"] == beside["against"]["held_out_source"] == str(text)
    low, high = (beside["intervals"]["perplexity"][end] for end in ("low", "high"))
    assert low < beside["ratios"]["perplexity"] < high
    other = evaluated(capsys, str(out), "--calibration", "builtin", "--held-out-samples", "2")
    assert other["held_out_source"] == "builtin"
    assert len(evaluated(capsys, str(out), "--held-out-samples", "2")["perplexity"]["window_nats"]) == 2


def test_the_screen_names_the_text(pruned: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    out, text = pruned
    assert run(["evaluate", str(out), *FAST]) == 0
    assert f"text: {text}, 3 windows of 24 tokens" in capsys.readouterr().out


def test_a_recipe_of_another_tool_says_nothing(
    tiny_llama_directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tmp_path / "model"
    shutil.copytree(tiny_llama_directory, model)
    (model / "recipe.yaml").write_text("default_stage: {}")
    assert evaluated(capsys, str(model), "--held-out-samples", "2")["held_out_source"] == "builtin"


def test_a_text_that_is_gone_is_named(
    pruned: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, text = pruned
    model = tmp_path / "out"
    shutil.copytree(out, model)
    recipe = (model / "recipe.yaml").read_text().replace(str(text), str(tmp_path / "gone.txt"))
    (model / "recipe.yaml").write_text(recipe)
    assert run(["evaluate", str(model), *FAST]) == 2
    message = capsys.readouterr().err
    assert "names the text that out was judged on" in message
    assert "name another with --calibration" in message
    assert message.count("\n") == 1


def test_adapters_name_the_families_that_they_support(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["adapters"]) == 0
    out = capsys.readouterr().out
    assert "hf-decoder supports" in out
    assert ", qwen3," in out
    assert run(["adapters", "--json"]) == 0
    assert "qwen3" in json.loads(capsys.readouterr().out)[0]["families"]


@pytest.mark.parametrize("command", ["prune", "evaluate", "compare", "score", "inspect", "demo"])
@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help_has_no_heading_for_itself_alone(
    command: str, flag: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([command, flag]) == 0
    out = capsys.readouterr().out
    assert "\nOptions:" not in out
    assert "-h, --help" in out
    assert not any(odd in out for odd in ("[[", "<bool>", ".raw"))
