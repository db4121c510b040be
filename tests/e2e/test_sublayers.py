"""Attention and MLP of each block as players, from the command line and from Python."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

import shapcut
from shapcut.cli.main import run
from shapcut.host.host import build_host
from shapcut.pipeline.dry_run import forecast
from shapcut.recipe.recipe import make_recipe

pytestmark = pytest.mark.long

TEXT = ["--samples", "3", "--sequence-length", "24", "--finalist-samples", "4", "--held-out-samples", "4"]
SMALL = {"samples": 3, "sequence_length": 24, "finalist_samples": 4, "held_out_samples": 4}
SUBLAYERS = ["--granularity", "sublayer"]


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def test_scores_of_attention_and_mlp(tiny_llama_directory: Path, tmp_path: Path) -> None:
    command = ["score", str(tiny_llama_directory), "--run", str(tmp_path), "--budget", "30"]
    assert run([*command, *SUBLAYERS, *TEXT]) == 0
    scored = read(tmp_path / "contributions.json")["players"]
    blocks = AutoModelForCausalLM.from_pretrained(tiny_llama_directory).config.num_hidden_layers
    assert len(scored) == 2 * blocks
    assert all(player["value"] is not None for player in scored)


def test_a_pruned_model(tiny_llama_directory: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = ["prune", str(tiny_llama_directory), "--out", str(out), "--remove", "2", "--budget", "30"]
    assert run([*command, *SUBLAYERS, *TEXT]) == 0
    plan = read(tmp_path / "out.run" / "plan.json")
    assert plan["granularity"] == "sublayer"
    whole, cut = (AutoModelForCausalLM.from_pretrained(path) for path in (tiny_llama_directory, out))
    assert (cut.config.model_type == "llama") == (plan["form"] == "same")
    gone = sum(player % 2 == 0 for player in plan["removed"])
    assert cut.config.num_hidden_layers == whole.config.num_hidden_layers - gone


def test_a_game_of_sublayers(tiny_llama_directory: Path) -> None:
    game = shapcut.load_game(str(tiny_llama_directory), granularity="sublayer", samples=3, sequence_length=24)
    contributions = shapcut.estimate(game, budget=30, remove=2)
    plan = shapcut.select(contributions, game.players, remove=2, game=game, budget=10)
    ids = torch.randint(3, 60, (2, 12), generator=torch.Generator().manual_seed(0))
    with game.adapter.bypass(game.model, plan.kept, "sublayer"):
        expected = game.adapter.logits(game.model, ids)
    cut = shapcut.apply(plan, game.model)
    torch.testing.assert_close(game.adapter.logits(cut, ids), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "options",
    [
        ["--estimator", "block-influence", "--selector", "ranking"],
        ["--estimator", "taylor", "--selector", "ranking"],
        ["--selector", "angular"],
    ],
    ids=lambda options: options[1],
)
def test_methods_see_the_stream_between_attention_and_mlp(
    options: list[str], tiny_llama_directory: Path, tmp_path: Path
) -> None:
    command = ["prune", str(tiny_llama_directory), "--out", str(tmp_path / "out"), "--remove", "2"]
    assert run([*command, *options, *SUBLAYERS, *TEXT, "--budget", "30"]) == 0
    assert len(read(tmp_path / "out.run" / "plan.json")["removed"]) == 2


@pytest.mark.parametrize("dry", [[], ["--dry-run", "--throughput", "1"]], ids=["run", "dry run"])
def test_a_number_that_cannot_be_written_is_refused_at_once(
    dry: list[str], tiny_llama_directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, out = tmp_path / "mistral", tmp_path / "out"  # of a family without a sibling
    shutil.copytree(tiny_llama_directory, model)
    config = read(model / "config.json") | {"model_type": "mistral", "architectures": ["MistralForCausalLM"]}
    (model / "config.json").write_text(json.dumps(config), encoding="utf-8")
    command = ["prune", str(model), "--out", str(out), "--remove", "3", *SUBLAYERS, *TEXT, *dry]
    assert run(command) == 2
    error = capsys.readouterr().err
    assert len(error.strip().splitlines()) == 1
    assert "found no set of 3 players" in error
    assert not out.exists()


def test_a_forecast(tiny_llama_directory: Path) -> None:
    options = {"model": str(tiny_llama_directory), "granularity": "sublayer", "remove": 2, **SMALL}
    found = forecast(make_recipe(options), build_host(), target=True, throughput=1.0)
    blocks = forecast(
        make_recipe(options | {"granularity": "block"}), build_host(), target=True, throughput=1.0
    )
    assert found.players == 2 * blocks.players


def test_inspect(tiny_llama_directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["inspect", str(tiny_llama_directory), *SUBLAYERS, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["granularities"] == ["block", "sublayer"]
    assert [player["kind"] for player in found["players"][:4]] == ["attention", "mlp"] * 2
    assert found["fast_evaluation"]
