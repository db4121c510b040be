"""Values that are no numbers: left out, counted, said once, and without harm to the rest."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

from shapcut.cli.exits import BAD_INPUT
from shapcut.cli.main import run
from shapcut.game.game import WindowPart
from shapcut.support.quiet import quiet_libraries
from shapcut.valuation.prefix_tree import CoalitionEvaluator

N = 6
PLANTED = np.array([0.4, 0.9, 0.1, 1.4, 0.2, 0.7])
SIZES = ["--samples", "2", "--sequence-length", "16", "--budget", "60", "--finalist-samples", "0"]
SIZES += ["--held-out-samples", "2", "--compile", "off"]


def score(model: Path, place: Path, *options: str) -> dict[str, Any]:
    assert run(["score", str(model), "--run", str(place), *SIZES, *options]) == 0
    contributions: dict[str, Any] = json.loads((place / "contributions.json").read_text())
    return contributions


def ranking(contributions: dict[str, Any]) -> list[float]:
    return [player["value"] for player in contributions["players"]]


@pytest.mark.parametrize("estimator", ["surrogate", "permutation", "stratified"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_planted_values_are_found_without_the_damaged_coalitions(
    bad: float,
    estimator: str,
    tmp_path: Path,
    tiny_llama_directory: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def planted(
        self: CoalitionEvaluator, coalitions: np.ndarray, first: int, last: int
    ) -> Iterator[WindowPart]:
        losses = -(coalitions @ PLANTED)
        losses[~coalitions[:, 2] & ~coalitions[:, 4] & coalitions[:, 1]] = bad
        yield WindowPart(np.arange(len(losses)), first, np.repeat(losses[:, None], last - first, axis=1))

    monkeypatch.setattr(CoalitionEvaluator, "parts", planted)
    found = score(tiny_llama_directory, tmp_path / "run", "--estimator", estimator, "--budget", "40")
    error = capsys.readouterr().err
    assert found["excluded_non_finite"] > 0
    assert ranking(found) == pytest.approx(PLANTED.tolist(), abs=1e-4)
    warning = [line for line in error.splitlines() if line.startswith("warning: ")]
    assert len(warning) == 1
    assert f"{found['excluded_non_finite']} of {found['evaluations']} coalitions" in warning[0]
    phase = json.loads((tmp_path / "run" / "manifest.json").read_text())["phases"]["estimate"]
    assert phase["evaluations_not_finite"] == found["excluded_non_finite"]
    assert run(["report", str(tmp_path / "run")]) == 0
    assert f"{found['excluded_non_finite']} of them had no finite value" in (
        tmp_path / "run" / "report.html"
    ).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def overflowing(tmp_path_factory: pytest.TempPathFactory, tokenizer: Any) -> Path:
    """Blocks 1 and 3 add, blocks 2 and 4 take away what fp16 can hold once but not twice."""
    directory = tmp_path_factory.mktemp("models") / "overflowing"
    config = LlamaConfig(
        vocab_size=300,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=N,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        initializer_range=0.2,
        mlp_bias=True,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = LlamaForCausalLM(config).eval().requires_grad_(requires_grad=False)
    for layer, sign in enumerate([0, 1, -1, 1, -1, 0]):
        model.model.layers[layer].mlp.down_proj.bias[0] = sign * 40_000.0
    with quiet_libraries():
        model.to(torch.float16).save_pretrained(directory)
        tokenizer.save_pretrained(directory)
    return directory


def test_a_half_precision_model_that_overflows_without_a_block(
    overflowing: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = score(overflowing, tmp_path / "half", "--dtype", "float16", "--estimator", "surrogate:share=1")
    assert 0 < found["excluded_non_finite"] < found["evaluations"]
    assert all(value is not None for value in ranking(found))
    assert "have no finite value" in capsys.readouterr().err
    whole = score(overflowing, tmp_path / "single", "--dtype", "float32", "--estimator", "surrogate:share=1")
    assert whole["excluded_non_finite"] == 0


def test_the_result_is_never_a_coalition_without_a_value(overflowing: Path, tmp_path: Path) -> None:
    command = ["prune", str(overflowing), "--out", str(tmp_path / "out"), "--remove", "1", *SIZES]
    assert run([*command, "--dtype", "float16"]) == 0
    plan = json.loads((tmp_path / "out" / "plan.json").read_text())
    assert np.isfinite(plan["measured_value"])
    assert plan["removed"] != [2]  # then blocks 1 and 3 overflow


def test_weights_that_are_no_numbers_are_refused_with_the_weight(
    tmp_path: Path, tiny_llama_directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = "model.layers.3.mlp.up_proj.weight"
    for bad in (torch.nan, torch.inf, -torch.inf):
        directory = tmp_path / str(bad)
        directory.mkdir()
        for file in tiny_llama_directory.iterdir():
            (directory / file.name).write_bytes(file.read_bytes())
        weights = load_file(directory / "model.safetensors")
        weights[name][5, 7] = bad
        save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
        assert run(["inspect", str(directory)]) == BAD_INPUT
        line = capsys.readouterr().err
        assert name in line
        assert "take another copy" in line


def test_a_whole_model_without_a_value_is_refused(
    tmp_path: Path,
    tiny_llama_directory: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """As of a calibration token to which the model gives no probability at all."""
    monkeypatch.setattr(CoalitionEvaluator, "full_mean", np.inf)
    command = ["score", str(tiny_llama_directory), "--run", str(tmp_path / "run"), *SIZES]
    assert run(command) == BAD_INPUT
    assert "loss on the calibration text is inf; try --dtype float32 or other text" in capsys.readouterr().err
