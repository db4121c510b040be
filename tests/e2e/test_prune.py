"""The whole pipeline on a small random model: what it leaves, and that it survives being killed."""

import json
import shutil
import signal
import sqlite3
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from forks import Killer, forked
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

import shapcut
from shapcut.cli.exits import BAD_INPUT
from shapcut.cli.main import run
from shapcut.game.coalitions import without
from shapcut.host import open_model
from shapcut.host.hookspecs import hookimpl
from shapcut.host.host import build_host
from shapcut.models import location
from shapcut.pipeline.prune import prune as run_pipeline
from shapcut.recipe.recipe import make_recipe
from shapcut.support.errors import InputError, ShapcutError
from shapcut.support.quiet import quiet_libraries
from shapcut_adapters.transformers.adapter import HFDecoderAdapter

pytestmark = pytest.mark.long

OPTIONS = ["--samples", "3", "--sequence-length", "24", "--finalist-samples", "4", "--held-out-samples", "4"]


@pytest.fixture(scope="module")
def ten_layers(tmp_path_factory: pytest.TempPathFactory, tokenizer: Any) -> Path:
    """A checkpoint of ten random layers of unequal weight; not to be changed."""
    directory = tmp_path_factory.mktemp("models") / "ten"
    config = LlamaConfig(
        vocab_size=300,
        hidden_size=24,
        intermediate_size=32,
        num_hidden_layers=10,
        num_attention_heads=2,
        max_position_embeddings=256,
        bos_token_id=0,
        eos_token_id=1,
    )
    with torch.random.fork_rng():
        torch.manual_seed(7)
        model = LlamaForCausalLM(config)
        for index, layer in enumerate(model.model.layers):
            for parameter in layer.parameters():
                parameter.data.mul_(1.0 + 0.7 * ((3 * index) % 5))
    with quiet_libraries():
        model.save_pretrained(directory)
        tokenizer.save_pretrained(directory)
    return directory


def prune(model: Path, out: Path, *options: str) -> None:
    command = ["prune", str(model), "--out", str(out), "--remove", "3", "--budget", "60", *OPTIONS, *options]
    assert run(command) == 0


@pytest.fixture(scope="module")
def pruned(ten_layers: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of an undisturbed run; its run directory is beside it."""
    out = tmp_path_factory.mktemp("runs") / "out"
    prune(ten_layers, out)
    return out


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def test_the_run_directory_tells_the_story(pruned: Path) -> None:
    directory = pruned.with_name("out.run")
    manifest, plan = read(directory / "manifest.json"), read(directory / "plan.json")
    contributions = read(directory / "contributions.json")
    assert manifest["status"] == "done"
    assert manifest["result"]["plan"] == plan
    assert manifest["recipe"]["budget"] == 60
    assert len(plan["removed"]) == 3
    assert sorted(plan["removed"] + plan["kept"]) == list(range(10))
    assert plan["model_fingerprint"] == manifest["fingerprint"]["model"]
    assert [player["player"] for player in contributions["players"]] == list(range(10))
    assert all(player["standard_error"] > 0 for player in contributions["players"])
    with sqlite3.connect(directory / "evaluations.sqlite") as store:
        counted = "SELECT COUNT(*), COUNT(DISTINCT coalition) FROM evaluations WHERE game"
        (on_all_text, _) = store.execute(f"{counted} = 'calibration'").fetchone()
        (_, asked) = store.execute(f"{counted} LIKE 'calibration%'").fetchone()
    assert on_all_text < 60
    assert asked == manifest["phases"]["select"]["evaluations_asked"]


def test_the_checkpoint_is_the_bypassed_original(pruned: Path, ten_layers: Path) -> None:
    with quiet_libraries():
        original = AutoModelForCausalLM.from_pretrained(ten_layers).eval()
        smaller = AutoModelForCausalLM.from_pretrained(pruned).eval()
    plan = read(pruned / "plan.json")
    ids = torch.randint(2, 300, (2, 20), generator=torch.Generator().manual_seed(0))
    adapter = HFDecoderAdapter()
    with adapter.bypass(original, plan["kept"]):
        expected = adapter.logits(original, ids)
    whole = adapter.logits(original, ids)
    assert (expected - whole).abs().max() > 1e-2
    torch.testing.assert_close(adapter.logits(smaller, ids), expected, rtol=0, atol=1e-5)


def test_it_loads_and_generates_with_a_cache_without_shapcut(pruned: Path) -> None:
    script = """
import sys
for name in ("shapcut", "shapcut_adapters", "shapcut_plugins"):
    sys.modules[name] = None
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
model = AutoModelForCausalLM.from_pretrained(sys.argv[1])
ids = torch.tensor([AutoTokenizer.from_pretrained(sys.argv[1])("some words").input_ids])
options = dict(max_new_tokens=8, min_new_tokens=8, do_sample=False, pad_token_id=0)
assert model.config.num_hidden_layers == 7
cached, uncached = (model.generate(ids, use_cache=cache, **options) for cache in (True, False))
assert torch.equal(cached, uncached)
"""
    result = subprocess.run(
        [sys.executable, "-c", script, str(pruned)], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr


def test_what_the_output_holds(pruned: Path) -> None:
    names = {path.name for path in pruned.iterdir()}
    assert {
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "README.md",
        "recipe.yaml",
        "plan.json",
    } <= names
    assert not [path for path in pruned.parent.iterdir() if "partial" in path.name]


def test_the_saved_recipe_reproduces_the_plan(pruned: Path, tmp_path: Path) -> None:
    out, kept = tmp_path / "again", pruned / "recipe.yaml"
    assert run(["prune", "--out", str(out), "--recipe", str(kept)]) == 0
    for name in ("plan.json", "recipe.yaml", "model.safetensors"):
        assert (out / name).read_bytes() == (pruned / name).read_bytes()
    assert (pruned.with_name("out.run") / "recipe.yaml").read_bytes() == kept.read_bytes()


def test_the_saved_recipe_says_that_finalists_had_no_text(ten_layers: Path, tmp_path: Path) -> None:
    text, out = tmp_path / "text.txt", tmp_path / "out"
    text.write_text("the quick brown fox jumps over the lazy dog. " * 30)
    command = ["prune", str(ten_layers), "--out", str(out), "--remove", "2", "--budget", "20"]
    sizes = ["--samples", "2", "--sequence-length", "24", "--held-out-samples", "2"]
    assert run([*command, *sizes, "--calibration", str(text)]) == 0
    assert "finalist_samples: 0\n" in (out / "recipe.yaml").read_text()
    assert run(["prune", "--out", f"{out}-again", "--recipe", str(out / "recipe.yaml")]) == 0


def test_no_model_and_no_place_for_the_result(ten_layers: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["prune", "--out", "nowhere", "--remove", "2"]) == 2
    assert capsys.readouterr().err == "shapcut: model is not given\n"
    assert run(["prune", str(ten_layers), "--remove", "2"]) == 2
    assert capsys.readouterr().err.startswith("shapcut: --out is missing: name a new directory")


@pytest.mark.parametrize("tied", [True, False], ids=["its model", "no model"])
def test_apply_gives_the_same_weights(
    tied: bool, pruned: Path, ten_layers: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, plan = tmp_path / "applied", tmp_path / "plan.json"
    names = ("removed", "kept", "model_fingerprint")[: 2 + tied]
    plan.write_text(json.dumps({name: read(pruned / "plan.json")[name] for name in names}))
    assert run(["apply", str(ten_layers), "--plan", str(plan), "--out", str(out)]) == 0
    assert (out / "model.safetensors").read_bytes() == (pruned / "model.safetensors").read_bytes()
    assert ("the plan names no model" in capsys.readouterr().err) is not tied


def prune_and_die(evaluations: int, model: Path, out: Path) -> None:
    sizes = {"budget": 60, "samples": 3, "sequence_length": 24, "finalist_samples": 4, "held_out_samples": 4}
    recipe = make_recipe({"model": str(model), "remove": 3, **sizes})
    run_pipeline(recipe, out, build_host(extra=[Killer(evaluations)]))


KILLED_AFTER = (5, 25, 45)


@pytest.fixture(scope="module")
def killed(ten_layers: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory of runs that were killed after so many evaluations."""
    root = tmp_path_factory.mktemp("killed")
    for evaluations in KILLED_AFTER:
        place = root / str(evaluations)
        place.mkdir()
        done = forked(partial(prune_and_die, evaluations, ten_layers, place / "out"))
        assert done.returncode == -signal.SIGKILL, done.stderr
    return root


@pytest.mark.parametrize("options", [("--seed", "5"), ("--finalist-samples", "6")])
def test_a_refused_run_leaves_the_directory_of_another_as_it_was(
    options: tuple[str, str],
    ten_layers: Path,
    pruned: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    kept = Path(shutil.copytree(pruned.with_name("out.run"), tmp_path / "kept.run"))
    names = ("manifest.json", "recipe.yaml", "plan.json", "contributions.json", "report.html")
    before = {name: (kept / name).read_bytes() for name in names}
    command = ["prune", str(ten_layers), "--out", str(tmp_path / "out"), "--run", str(kept)]
    assert run([*command, "--remove", "3", "--budget", "60", *OPTIONS, *options]) == BAD_INPUT
    assert "choose another --run" in capsys.readouterr().err
    assert {name: (kept / name).read_bytes() for name in names} == before


@pytest.mark.parametrize("evaluations", KILLED_AFTER)
def test_a_killed_run_goes_on_without_repeating(
    evaluations: int, killed: Path, ten_layers: Path, pruned: Path
) -> None:
    out = killed / str(evaluations) / "out"
    assert not out.exists()
    directory = out.with_name("out.run")
    with sqlite3.connect(directory / "evaluations.sqlite") as store:
        (stored,) = store.execute("SELECT COUNT(*) FROM evaluations").fetchone()
    assert stored >= evaluations
    prune(ten_layers, out)
    with sqlite3.connect(directory / "evaluations.sqlite") as store:
        known = store.execute("SELECT game, COUNT(*) FROM evaluations GROUP BY game ORDER BY game").fetchall()
        measured = store.execute("SELECT game, evaluations FROM durations ORDER BY game").fetchall()
    assert measured == known
    phase = read(directory / "manifest.json")["phases"]["select"]
    undisturbed = read(pruned.with_name("out.run") / "manifest.json")["phases"]["select"]
    total = sum(undisturbed["evaluations_measured"].values())
    assert sum(phase["evaluations_measured"].values()) == total - stored
    assert read(out / "plan.json") == read(pruned / "plan.json")
    assert (out / "model.safetensors").read_bytes() == (pruned / "model.safetensors").read_bytes()


def test_score_changes_nothing_and_reports_json(
    ten_layers: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["score", str(ten_layers), "--run", str(tmp_path / "run"), "--budget", "30", *OPTIONS, "--json"]
    assert run(command) == 0
    content = json.loads(capsys.readouterr().out)
    assert content == read(tmp_path / "run" / "contributions.json")
    assert content["evaluations"] <= 30


def test_a_target_tells_score_where_to_look(ten_layers: Path, tmp_path: Path) -> None:
    for name, target in (("near", ["--remove", "2"]), ("far", ["--remove", "5"])):
        command = [
            "score",
            str(ten_layers),
            "--run",
            str(tmp_path / name),
            "--budget",
            "40",
            *OPTIONS,
            *target,
        ]
        assert run(command) == 0
    near, far = (read(tmp_path / name / "contributions.json")["weighting"] for name in ("near", "far"))
    assert "2 to 3 players" in near
    assert "2 to 6 players" in far


def test_the_paper_preset(ten_layers: Path, tmp_path: Path) -> None:
    prune(ten_layers, tmp_path / "out", "--preset", "paper", "--estimator", "paper:surrogate_masks=500")
    plan = read(tmp_path / "out" / "plan.json")
    assert plan["method"] == "paper + ranking"
    assert plan["utility"] == "perplexity-ratio"
    assert plan["full_value"] == pytest.approx(1.0, abs=1e-6)


def test_a_dry_run_touches_nothing(
    ten_layers: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    command = ["prune", str(ten_layers), "--out", str(out), "--ratio", "0.3", *OPTIONS, "--dry-run", "--json"]
    assert run(command) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["players"], found["players_to_remove"], found["from_config"]) == (10, 3, True)
    assert list(tmp_path.iterdir()) == []


def test_evaluate_and_inspect_as_json(ten_layers: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["inspect", str(ten_layers), "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert len(content["players"]) == 10
    assert content["fast_evaluation"] is True
    assert run(["evaluate", str(ten_layers), "--held-out-samples", "4", "--json"]) == 0
    measured = json.loads(capsys.readouterr().out)
    assert measured["parameters"] == content["parameters"]
    assert measured["perplexity"]["n_tokens"] == 4 * 127


def test_a_model_that_cannot_generate_is_pruned_and_measured_all_the_same(
    ten_layers: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError("this model does not generate")

    monkeypatch.setattr("transformers.LlamaForCausalLM.generate", fail)
    out = tmp_path / "out"
    prune(ten_layers, out)
    result = read(out.with_name("out.run") / "result.json")
    for figures in (result["dense"], result["pruned"]):
        assert figures["latency"] is None
        assert figures["notes"] == [
            f"no {what}: this model does not generate" for what in ("latency", "writing")
        ]
    capsys.readouterr()
    assert run(["evaluate", str(out), "--held-out-samples", "2", "--cache-lengths", "none", "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["notes"] == ["no latency: this model does not generate"]


def test_the_python_api(ten_layers: Path, tmp_path: Path) -> None:
    game = shapcut.load_game(str(ten_layers), samples=2, sequence_length=16)
    contributions = shapcut.estimate(game, budget=40, seed=0, remove=3)
    plan = shapcut.select(contributions, game.players, remove=3, game=game, budget=20)
    assert plan.measured_value == float(game.values(without(10, [plan.removed]))[0])
    assert plan.full_value == float(game.values(without(10, [()]))[0])
    for other, words in (("", "no model"), ("0" * 64, "another model")):
        with pytest.raises(InputError, match=words):
            shapcut.apply(plan.model_copy(update={"model_fingerprint": other}), game.model)
    model = shapcut.apply(plan, game.model)
    with quiet_libraries():
        model.save_pretrained(tmp_path / "out")
    assert json.loads((tmp_path / "out" / "config.json").read_text())["num_hidden_layers"] == 7


def test_a_plugin_can_veto(ten_layers: Path, tmp_path: Path) -> None:
    class Veto:
        @hookimpl
        def shapcut_plan_ready(self, plan: Any) -> str:
            return f"{len(plan.removed)} are too many"

    recipe = make_recipe(
        {"model": str(ten_layers), "remove": 3, "budget": 30, "samples": 2, "sequence_length": 16}
    )
    with pytest.raises(ShapcutError, match="vetoed: 3 are too many"):
        run_pipeline(recipe, tmp_path / "out", build_host(extra=[Veto()]))
    assert not (tmp_path / "out").exists()


def test_a_short_text_goes_without_finals_unless_they_are_asked_for(
    ten_layers: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = tmp_path / "short.txt"
    text.write_text("A few words, and then again.\n" * 80)
    command = ["prune", str(ten_layers), "--remove", "2", "--calibration", str(text), "--budget", "20"]
    sizes = ["--samples", "4", "--sequence-length", "64", "--held-out-samples", "2"]
    assert run([*command, *sizes, "--out", str(tmp_path / "one")]) == 0
    assert read(tmp_path / "one.run" / "manifest.json")["text"]["finals"] == []
    capsys.readouterr()
    assert run([*command, *sizes, "--out", str(tmp_path / "two"), "--finalist-samples", "64"]) == 2
    assert "64 samples of 64 tokens" in capsys.readouterr().err


def test_a_model_is_located_once_and_opened_once(
    ten_layers: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    located, opened = [], []
    locate, load = location.locate, open_model.load
    monkeypatch.setattr(open_model, "locate", lambda *a, **k: located.append(a) or locate(*a, **k))
    monkeypatch.setattr(open_model, "load", lambda *a, **k: opened.append(a) or load(*a, **k))
    prune(ten_layers, tmp_path / "out", "--no-mend")
    assert (len(located), len(opened)) == (1, 1)
