"""Experts as players, from the command line to a checkpoint."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, Qwen3MoeConfig, Qwen3MoeForCausalLM

import shapcut
from shapcut.cli.main import run
from shapcut.host.hookspecs import hookimpl
from shapcut.host.host import build_host
from shapcut.pipeline.dry_run import forecast
from shapcut.pipeline.prune import prune as run_pipeline
from shapcut.recipe.recipe import make_recipe
from shapcut.support.errors import InputError, ShapcutError
from shapcut.support.quiet import quiet_libraries

pytestmark = pytest.mark.long

TEXT = ["--samples", "3", "--sequence-length", "24", "--finalist-samples", "4", "--held-out-samples", "4"]
SMALL = {"samples": 3, "sequence_length": 24, "finalist_samples": 4, "held_out_samples": 4}
EXPERTS = ["--granularity", "expert"]
LAYERS, EXPERTS_A_LAYER = (0, 2, 3), 6


@pytest.fixture(scope="module")
def mixture(tmp_path_factory: pytest.TempPathFactory, tokenizer: Any) -> Path:
    """Four random layers, three of them with six experts; not to be changed."""
    directory = tmp_path_factory.mktemp("models") / "mixture"
    config = Qwen3MoeConfig(
        vocab_size=300,
        hidden_size=32,
        intermediate_size=48,
        moe_intermediate_size=16,
        num_hidden_layers=4,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=16,
        num_experts=EXPERTS_A_LAYER,
        num_experts_per_tok=2,
        mlp_only_layers=[1],
        max_position_embeddings=256,
        initializer_range=0.3,
        bos_token_id=0,
        eos_token_id=1,
    )
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = Qwen3MoeForCausalLM(config)
    with quiet_libraries():
        model.save_pretrained(directory)
        tokenizer.save_pretrained(directory)
    return directory


def by_layer(removed: list[int]) -> list[int]:
    return [sum(player // EXPERTS_A_LAYER == place for player in removed) for place in range(len(LAYERS))]


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def test_a_pruned_mixture(mixture: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = ["prune", str(mixture), "--out", str(out), *EXPERTS, "--remove", "6", "--budget", "40", *TEXT]
    assert run(command) == 0
    plan = read(tmp_path / "out.run" / "plan.json")
    assert plan["granularity"] == "expert"
    assert by_layer(plan["removed"]) == [2, 2, 2]
    model = AutoModelForCausalLM.from_pretrained(out)
    assert model.config.num_experts == 4
    card = (out / "README.md").read_text(encoding="utf-8")
    assert "with 6 of its 18 experts removed" in card
    assert [line.partition(":")[0] for line in card.splitlines() if "of 6 experts" in line] == [
        f"  - layer {layer}" for layer in LAYERS
    ]
    assert plan["layers"] == {f"model.layers.{layer}.mlp.experts": 6 for layer in LAYERS}
    assert "expert-pruning" in card
    result = read(tmp_path / "out.run" / "result.json")
    removed = result["dense"]["parameters"] - result["pruned"]["parameters"]
    assert removed == 6 * (3 * 32 * 16 + 32)
    report = "\n".join(path.read_text(encoding="utf-8") for path in (tmp_path / "out.run").glob("*.html"))
    assert "(experts, counted from 0 in each layer)" in report
    assert "layer 3: 2 of 6 experts: " in report
    assert "One strip for the players of a layer, from left to right" in report


def test_a_plan_is_applied_in_python(mixture: Path, tmp_path: Path) -> None:
    game = shapcut.load_game(str(mixture), granularity="expert", samples=3, sequence_length=24)
    contributions = shapcut.estimate(game, budget=30, remove=3)
    plan = shapcut.select(contributions, game.players, remove=3, game=game, budget=10)
    assert by_layer(list(plan.removed)) == [1, 1, 1]
    before = sum(weight.numel() for weight in game.model.parameters())
    cut = shapcut.apply(plan, game.model)
    assert before - sum(weight.numel() for weight in cut.parameters()) == 3 * (3 * 32 * 16 + 32)
    with pytest.raises(InputError, match="cannot remove 4 of 18 players: each of 3 groups"):
        shapcut.select(contributions, game.players, remove=4)


@pytest.mark.parametrize("preset", ["frequency", "ean", "reap", "random", "greedy", "evolutionary"])
def test_baselines(mixture: Path, tmp_path: Path, preset: str) -> None:
    recipe = make_recipe(
        {
            "model": str(mixture),
            "granularity": "expert",
            "ratio": 0.3,
            "preset": preset,
            "budget": 60,
            **SMALL,
        }
    )
    result = run_pipeline(recipe, tmp_path / "out", build_host())
    assert by_layer(list(result.plan.removed)) == [2, 2, 2]


class InterruptedRunError(ShapcutError):
    """Ends a run."""


class Interrupting:
    """A plugin that ends a run after so many evaluations."""

    def __init__(self, evaluations: int) -> None:
        self.evaluations = evaluations

    @hookimpl
    def shapcut_coalitions_evaluated(self, total: int) -> None:
        if total >= self.evaluations:
            raise InterruptedRunError


def test_an_interrupted_run_goes_on_to_the_same_end(mixture: Path, tmp_path: Path) -> None:
    options = {"model": str(mixture), "granularity": "expert", "remove": 6, "budget": 24, **SMALL}
    recipe = make_recipe(options)
    whole = run_pipeline(recipe, tmp_path / "whole", build_host())
    with pytest.raises(InterruptedRunError):
        run_pipeline(recipe, tmp_path / "again", build_host(extra=[Interrupting(10)]))
    again = run_pipeline(recipe, tmp_path / "again", build_host())
    assert again.plan == whole.plan
    manifests = (read(tmp_path / f"{name}.run" / "manifest.json") for name in ("again", "whole"))
    estimates = (manifest["phases"]["estimate"]["evaluations_measured"] for manifest in manifests)
    measured, known = (sum(evaluations.values()) for evaluations in estimates)
    assert measured <= known - 10


REFUSED = {
    "not equally many": (["--remove", "5"], "--remove 5: each of 3 groups"),
    "more than there are": (["--remove", "18"], "--remove 18: of the model's 18 players 3 to 15 can"),
    "almost nothing": (["--ratio", "0.01"], "--ratio 0.01: of the model's 18 players 3 to 15 can"),
    "fewer than are routed to": (["--remove", "15"], "found no set of 15 players"),
    "a speed": (["--speedup", "1.2"], "--speedup 1.2: the time of a part"),
    "an estimator of blocks": (
        ["--remove", "3", "--estimator", "exact"],
        "estimator 'exact' does not support players",
    ),
    "a baseline of blocks": (
        ["--remove", "3", "--preset", "taylor"],
        "estimator 'taylor' does not support players",
    ),
    "a selector of blocks": (
        ["--remove", "3", "--selector", "angular"],
        "selector 'angular' does not support players",
    ),
}


@pytest.mark.parametrize("dry", [[], ["--dry-run", "--throughput", "1"]], ids=["run", "dry run"])
@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_is_refused_at_once(
    case: str, dry: list[str], mixture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options, message = REFUSED[case]
    command = ["prune", str(mixture), "--out", str(tmp_path / "out"), *EXPERTS, *TEXT, *options, *dry]
    if case == "a speed" and dry:
        pytest.skip("a forecast knows no times")
    assert run(command) == 2
    error = capsys.readouterr().err
    assert len(error.strip().splitlines()) == 1
    assert message in error
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "out.run").exists()


def test_a_model_without_experts_is_refused(
    tiny_llama_directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "out")
    assert run(["prune", str(tiny_llama_directory), "--out", out, *EXPERTS, "--remove", "2"]) == 2
    assert "a LlamaForCausalLM has no experts; use block" in capsys.readouterr().err
    frequency = ["--preset", "frequency", "--remove", "2", *TEXT]
    assert run(["prune", str(tiny_llama_directory), "--out", out, *frequency]) == 2
    assert "estimator 'frequency' scores experts; use --granularity expert" in capsys.readouterr().err


def test_a_forecast(mixture: Path) -> None:
    options = {"model": str(mixture), "granularity": "expert", "parameters": 60_000, **SMALL}
    found = forecast(make_recipe(options), build_host(), target=True, throughput=1.0)
    assert (found.players, found.removable) == (18, 18)
    total, gone = found.parameters, 3 * (3 * 32 * 16 + 32)
    assert [cut.fewest for cut in found.cuts] == [3 * math.ceil((total - 60_000) / gone)]


def test_inspect(mixture: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["inspect", str(mixture), *EXPERTS, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["granularities"] == ["block", "sublayer", "expert", "mixed"]
    assert [player["group"] for player in found["players"]] == [layer for layer in LAYERS for _ in range(6)]
    assert run(["inspect", str(mixture), *EXPERTS]) == 0
    shown = capsys.readouterr().out
    assert "6 to 11" in shown
    assert "6 of 6" in shown


def test_a_comparison(mixture: Path, tmp_path: Path) -> None:
    methods = ["--methods", "ean,reap,greedy,surrogate+search@20,taylor", "--remove", "6"]
    command = ["compare", str(mixture), *methods, *EXPERTS, "--run", str(tmp_path / "run"), *TEXT]
    assert run(command) == 0
    rows = {row["method"]: row for row in read(tmp_path / "run" / "comparison.json")["rows"]}
    assert "does not support players" in rows.pop("taylor")["failure"]
    assert all(by_layer(row["removed"]) == [2, 2, 2] for row in rows.values())


def test_experts_are_removed_and_what_stays_is_mended(mixture: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    mend = ["--preset", "ean", "--then", "compensate:samples=8"]
    assert run(["prune", str(mixture), "--out", str(out), *EXPERTS, "--remove", "9", *mend, *TEXT]) == 0
    written = read(tmp_path / "out.run" / "steps" / "1-compensate" / "compensation.json")
    assert {each["block"] for each in written["projections"]} == set(LAYERS)
    assert AutoModelForCausalLM.from_pretrained(out).config.num_experts == 3
