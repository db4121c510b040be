"""RWKV models through the command line: from a file to a smaller file that is read again."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from shapcut.api import load_game
from shapcut.cli.main import run
from shapcut.game.plan import RemovalPlan
from shapcut.support.quiet import quiet_libraries
from shapcut_adapters.rwkv.examples import tiny_rwkv
from shapcut_adapters.rwkv.weights import read_weights, write_weights
from shapcut_adapters.rwkv7_hf.format import register_rwkv7
from shapcut_adapters.shared.random_weights import perturb, seeded

VOCABULARY = 300
OPTIONS = ["--samples", "2", "--sequence-length", "12", "--finalist-samples", "0", "--held-out-samples", "2"]
FIGURES = ["--sequence-length", "12", "--held-out-samples", "2", "--json"]


@pytest.fixture(scope="module")
def pth_file(tmp_path_factory: pytest.TempPathFactory, tokenizer: Any) -> Path:
    """A tiny RWKV 7 with its tokenizer beside it, and another model's file; not to be changed.

    As in published files, its first block has no weights for mixing in the values of the first block.
    """
    directory = tmp_path_factory.mktemp("rwkv")
    model, _ = tiny_rwkv("7", 0)
    unused = {f"blocks.0.att.v{letter}" for letter in "012"}
    weights = {name: tensor.data for name, tensor in model.raw_weights().items() if name not in unused}
    generator = torch.Generator().manual_seed(0)
    for name in ("emb.weight", "head.weight"):
        weights[name] = torch.randn(VOCABULARY, weights[name].shape[1], generator=generator) * 0.3
    write_weights(weights, directory / "tiny.pth")
    write_weights(weights, directory / "other.pth")
    tokenizer.save_pretrained(directory)
    return directory / "tiny.pth"


@pytest.fixture(scope="module")
def hf_directory(tmp_path_factory: pytest.TempPathFactory, tokenizer: Any) -> Path:
    """A tiny RWKV-7 checkpoint of rwkv7-hf in bf16; not to be changed."""
    directory = tmp_path_factory.mktemp("rwkv7-hf")
    model_class = register_rwkv7()
    config = model_class.config_class(
        vocab_size=VOCABULARY,
        hidden_size=32,
        num_hidden_layers=5,
        head_dim=16,
        intermediate_size=48,
        decay_low_rank_dim=4,
        gate_low_rank_dim=4,
        a_low_rank_dim=4,
        v_low_rank_dim=4,
    )
    with seeded(0):
        model = model_class(config)
    perturb(model, torch.Generator().manual_seed(0))
    with quiet_libraries():
        model.to(torch.bfloat16).save_pretrained(directory)
        tokenizer.save_pretrained(directory)
    return directory


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    """What a command prints as JSON."""
    capsys.readouterr()
    assert run([*arguments]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("fixture", ["pth_file", "hf_directory"])
def test_what_prune_writes_can_be_inspected_evaluated_and_pruned_again(
    fixture: str, request: pytest.FixtureRequest, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source: Path = request.getfixturevalue(fixture)
    out = tmp_path / "out"
    prune = ["prune", str(source), "--out", str(out), "--remove", "2", "--budget", "12", *OPTIONS, "--json"]
    result = printed(capsys, *prune)
    assert result["checkpoint"]["max_logit_difference"] <= result["checkpoint"]["tolerance"]
    weights = source if source.is_file() else source / "model.safetensors"
    assert result["dense"]["checkpoint_bytes"] == weights.stat().st_size
    players = printed(capsys, "inspect", str(out), "--json")
    assert (len(players["players"]), players["fast_evaluation"]) == (3, True)
    assert players["parameters"] == result["pruned"]["parameters"]
    figures = printed(capsys, "evaluate", str(out), *FIGURES)
    assert result["pruned"]["perplexity"].items() <= figures["perplexity"].items()
    assert figures["checkpoint_bytes"] == result["pruned"]["checkpoint_bytes"]
    assert (out / "tokenizer.json").is_file()


def test_the_file_that_prune_writes_has_the_source_files_weights_under_new_numbers(
    pth_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    RemovalPlan.removing([0, 3], 5).write(tmp_path / "plan.json")
    out = tmp_path / "out"
    printed(
        capsys, "apply", str(pth_file), "--plan", str(tmp_path / "plan.json"), "--out", str(out), "--json"
    )
    before, after = read_weights(pth_file), read_weights(out / "model.pth")
    for new, old in enumerate((1, 2, 4)):
        for name, tensor in after.items():
            if name.startswith(f"blocks.{new}.") and ".ln0." not in name:
                assert torch.equal(tensor, before[name.replace(f".{new}.", f".{old}.", 1)]), name
    for name in ("emb.weight", "head.weight", "blocks.0.ln0.weight", "ln_out.bias"):
        assert torch.equal(before[name], after[name])
    assert not any(name.startswith("blocks.3.") for name in after)
    card = (out / "README.md").read_text()
    assert "library_name: rwkv\n" in card
    assert 'RWKV_V7_ON"] = "1"' in card


def test_too_many_layers_are_refused_before_weights_are_read(
    hf_directory: Path, pth_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for source in (hf_directory, pth_file):
        assert run(["prune", str(source), "--out", str(tmp_path / "out"), "--remove", "5"]) == 2
        assert "of the model's 5 players 1 to 4 can be removed" in capsys.readouterr().err


def test_a_directory_of_two_files_is_refused_with_what_to_do(
    pth_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["inspect", str(pth_file.parent)]) == 2
    assert "2 .pth files; name the one that is meant" in capsys.readouterr().err


def test_a_game_is_made_of_a_file(pth_file: Path) -> None:
    game = load_game(str(pth_file), samples=2, sequence_length=12, device="cpu")
    assert (game.n_players, game.adapter.name) == (5, "rwkv")
