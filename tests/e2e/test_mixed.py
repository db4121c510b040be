"""Mixed cuts of blocks, MoE parts and experts, from the command line to a checkpoint."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, Qwen3MoeConfig, Qwen3MoeForCausalLM

from shapcut.cli.main import run
from shapcut.recipe.recipe import Recipe, make_recipe
from shapcut.support.errors import InputError
from shapcut.support.quiet import quiet_libraries

pytestmark = pytest.mark.long

TEXT = ["--samples", "3", "--sequence-length", "24", "--finalist-samples", "4", "--held-out-samples", "4"]
MIXED = ["--granularity", "mixed", "--budget", "80"]
LAYERS, EXPERTS = 4, 6


@pytest.fixture(scope="module")
def mixture(tmp_path_factory: pytest.TempPathFactory, tokenizer: Any) -> Path:
    """Four random layers with six experts each; not to be changed."""
    directory = tmp_path_factory.mktemp("models") / "mixture"
    config = Qwen3MoeConfig(
        vocab_size=300,
        hidden_size=32,
        intermediate_size=48,
        moe_intermediate_size=16,
        num_hidden_layers=LAYERS,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=16,
        num_experts=EXPERTS,
        num_experts_per_tok=2,
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


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def test_a_pruned_mixture_has_few_enough_parameters(
    mixture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert run(["prune", str(mixture), "--out", str(out), *MIXED, "--ratio", "0.3", *TEXT]) == 0
    plan, result = read(tmp_path / "out.run" / "plan.json"), read(tmp_path / "out.run" / "result.json")
    assert (plan["granularity"], plan["method"]) == ("mixed", "mixed")
    before, after = (result[which]["parameters"] for which in ("dense", "pruned"))
    assert after <= before * 0.7
    model = AutoModelForCausalLM.from_pretrained(out)
    assert sum(weight.numel() for weight in model.parameters()) == after
    assert " M)" in plan["reason"]
    printed = capsys.readouterr().out
    assert "layer 3: " in printed
    assert plan["reason"] in printed.replace("\n", " ")
    report = "\n".join(path.read_text(encoding="utf-8") for path in (tmp_path / "out.run").glob("*.html"))
    assert "(parts and experts, counted from 0 in each layer)" in report
    card = (out / "README.md").read_text(encoding="utf-8")
    assert f"of its {LAYERS * (EXPERTS + 2)} parts and experts removed" in card


def test_a_plan_that_mixes_all_kinds_is_applied(
    mixture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first block, the MoE part of the second, and one expert of each other layer."""
    size = EXPERTS + 2
    removed = [*range(size), *range(size + 1, 2 * size), 2 * size + 4, 3 * size + 2]
    kept = [player for player in range(LAYERS * size) if player not in removed]
    plan = {"granularity": "mixed", "removed": removed, "kept": kept}
    (tmp_path / "plan.json").write_text(json.dumps(plan), encoding="utf-8")
    out = tmp_path / "out"
    command = ["apply", str(mixture), "--plan", str(tmp_path / "plan.json"), "--out", str(out)]
    assert run(command) == 0
    config = AutoModelForCausalLM.from_pretrained(out).config
    assert (config.num_hidden_layers, config.num_experts, config.mlp_only_layers) == (3, EXPERTS - 1, [0])
    assert read(tmp_path / "out.run" / "plan.json")["form"] == "sibling"


def test_only_blocks_and_moe_parts_save_time(mixture: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert run(["prune", str(mixture), "--out", str(out), *MIXED, "--speedup", "1.2", *TEXT]) == 0
    latencies = read(tmp_path / "out.run" / "latencies.json")
    size = EXPERTS + 2
    for layer in range(0, LAYERS * size, size):
        attention, mixture_part, *experts = latencies["player_decode"][layer : layer + size]
        assert attention > 0.0 < mixture_part
        assert not any(experts)
    removed = set(read(tmp_path / "out.run" / "plan.json")["removed"])
    assert removed
    for layer in range(0, LAYERS * size, size):
        gone = {player - layer for player in removed if player in range(layer, layer + size)}
        assert gone in (set(), set(range(size)), set(range(1, size)))


def test_a_number_of_players_is_no_target(mixture: Path, tmp_path: Path) -> None:
    options = {"model": str(mixture), "granularity": "mixed"}
    with pytest.raises(
        InputError, match="remove 5: with granularity mixed a target counts parameters or time"
    ):
        make_recipe({**options, "remove": 5})
    recipe = make_recipe({**options, "ratio": 0.2})
    assert (recipe.estimator, recipe.selector) == ("mixed", "mixed")
    assert Recipe.model_validate(recipe.model_dump()) == recipe
    with pytest.raises(InputError, match="is no target with --granularity mixed"):
        recipe.n_remove(32)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--remove", "5"], "a target counts parameters"),
        (
            ["--ratio", "0.2", "--selector", "search"],
            "does not support blocks, MoE parts and experts together",
        ),
        (["--ratio", "0.2", "--estimator", "surrogate"], "does not support blocks, MoE parts and experts"),
        (["--ratio", "0.2,0.4", "--nested"], "a mixed cut is not made of smaller ones; leave it out"),
        (["--ratio", "0.98"], "cannot be reached"),
        (["--ratio", "0.2", "--budget", "10"], "needs a budget of at least"),
    ],
)
def test_refusals(
    mixture: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    message: str,
) -> None:
    command = [
        "prune",
        str(mixture),
        "--out",
        str(tmp_path / "out"),
        "--granularity",
        "mixed",
        *options,
        *TEXT,
    ]
    assert run(command) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_dry_run_and_a_score(mixture: Path, tmp_path: Path) -> None:
    common = [str(mixture), *MIXED, *TEXT]
    assert run(["prune", *common, "--ratio", "0.2", "--out", str(tmp_path / "o"), "--dry-run"]) == 0
    assert run(["score", *common, "--run", str(tmp_path / "run")]) == 0
    players = read(tmp_path / "run" / "contributions.json")["players"]
    assert len(players) == LAYERS * (EXPERTS + 2)
    assert all(player["value"] is not None for player in players)


def test_inspect_shows_parts_and_experts(mixture: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["inspect", str(mixture), "--granularity", "mixed", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [player["group"] for player in found["players"][:4]] == [None, None, 0, 0]
    assert run(["inspect", str(mixture), "--granularity", "mixed"]) == 0
    shown = capsys.readouterr().out
    assert "2 to 7" in shown
    assert "self_attn" in shown
