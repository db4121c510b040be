"""Several cuts from one run, and targets that are no numbers of players."""

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM

import shapcut
from shapcut.cli.main import run
from shapcut.cli.tables import cut_lines
from shapcut.pipeline.series import SeriesResult
from shapcut.support.errors import InputError
from shapcut.support.quiet import quiet_libraries

SIZES = ["--samples", "4", "--sequence-length", "24", "--finalist-samples", "0", "--held-out-samples", "4"]
OPTIONS = [*SIZES, "--budget", "30"]


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def test_nested_cuts_have_a_place_a_plan_and_a_point_each_and_are_not_made_again(
    tiny_llama_directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    command = ["prune", str(tiny_llama_directory), "--out", str(out), "--remove", "1,3", "--nested", "--json"]
    assert run([*command, *SIZES, "--budget", "30"]) == 0
    first = json.loads(capsys.readouterr().out)
    plans = {label: read(out / label / "plan.json") for label in ("remove-1", "remove-3")}
    assert set(plans["remove-1"]["removed"]) < set(plans["remove-3"]["removed"])
    assert [point["removed"] for point in first["curve"]] == [0, 1, 3]
    one, three, text = cut_lines(SeriesResult(first["results"], None))
    assert one.startswith(f"remove-1: removed {plans['remove-1']['removed'][0]}; perplexity ")
    assert three.startswith("remove-3: removed ")
    assert text.startswith("held-out text: builtin, 4 windows of 24 tokens")
    directory = out.with_name("out.run")
    assert {path.stem for path in (directory / "plans").iterdir()} == set(plans)
    assert "What each cut costs" in (directory / "report.html").read_text()
    for label, plan in plans.items():
        with quiet_libraries():
            model = AutoModelForCausalLM.from_pretrained(out / label)
        assert model.config.num_hidden_layers == len(plan["kept"])
    stamp = (out / "remove-1" / "model.safetensors").stat().st_mtime_ns
    for path in (out / "remove-3").iterdir():
        path.unlink()
    (out / "remove-3").rmdir()
    assert run([*command, *SIZES, "--budget", "30"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert (out / "remove-1" / "model.safetensors").stat().st_mtime_ns == stamp
    assert read(directory / "manifest.json")["phases"]["estimate"]["evaluations_measured"]["calibration"] == 0
    for label in plans:
        assert again["results"][label]["plan"] == first["results"][label]["plan"]


@pytest.mark.parametrize("kind", ["parameters", "memory"])
def test_a_limit_on_size_is_kept(tiny_llama_directory: Path, tmp_path: Path, kind: str) -> None:
    with quiet_libraries():
        model = AutoModelForCausalLM.from_pretrained(tiny_llama_directory)
    total = sum(weight.numel() for weight in model.parameters())
    block = sum(weight.numel() for weight in model.model.layers[0].parameters())
    limit = (total - block) * (4 if kind == "memory" else 1)
    amount = str(limit)
    command = [
        "prune",
        str(tiny_llama_directory),
        "--out",
        str(tmp_path / "out"),
        f"--{kind}",
        amount,
        *OPTIONS,
    ]
    assert run(command) == 0
    result = read(tmp_path / "out.run" / "manifest.json")["result"]["pruned"]
    assert result["parameters"] * (4 if kind == "memory" else 1) <= limit


def test_a_speed_is_reached_by_measured_shares_that_are_kept(
    tiny_llama_directory: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    command = ["prune", str(tiny_llama_directory), "--out", str(out), "--speedup", "1.15", *SIZES]
    assert run([*command, "--budget", "30"]) == 0
    latencies = read(tmp_path / "out.run" / "latencies.json")
    assert all(seconds > 0 for seconds in latencies["player_prefill"] + latencies["player_decode"])
    assert sum(latencies["player_prefill"]) < latencies["prefill"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"parameters": "10"}, "at most 10 parameters cannot be reached by removing players; .* or more can"),
        ({"parameters": "9B"}, "at most 9,000,000,000 parameters already"),
        ({"memory": "1KiB"}, "cannot be reached"),
        ({"speedup": 1000.0}, "1000 times the speed cannot be reached .* times can"),
        ({"ratio": "0.2,0.2"}, "name different amounts"),
        ({"remove": "1,2", "ratio": 0.5}, "two targets at once"),
        ({"speedup": 0.9}, "speedup 0.9 is not more than 1"),
    ],
)
def test_what_cannot_be_reached_is_refused_before_any_work(
    tiny_llama_directory: Path, tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        shapcut.prune(
            str(tiny_llama_directory), out=tmp_path / "out", samples=2, sequence_length=16, **options
        )
    assert not list(tmp_path.iterdir())
