"""Runs in a directory, side by side."""

import json
from pathlib import Path
from typing import Any

import shapcut
from shapcut.cli.exits import BAD_INPUT
from shapcut.cli.main import run


def test_runs_are_listed_and_compared(tiny_llama_directory: Path, tmp_path: Path, capfd: Any) -> None:
    options: dict[str, Any] = {"samples": 2, "sequence_length": 16, "held_out_samples": 2, "budget": 12}
    model = str(tiny_llama_directory)
    one = shapcut.prune(model, out=tmp_path / "one", run=tmp_path / "runs" / "one", remove=1, **options)
    shapcut.prune(model, out=tmp_path / "two", run=tmp_path / "runs" / "deep" / "two", ratio=0.34, **options)
    damaged = tmp_path / "runs" / "damaged"
    damaged.mkdir()
    (damaged / "manifest.json").write_text("{}")
    (tmp_path / "runs" / "loop").symlink_to(tmp_path / "runs")
    assert run(["runs", str(tmp_path / "runs"), "--json"]) == 0
    found = {Path(each["directory"]).name: each for each in json.loads(capfd.readouterr().out)}
    assert {name: each["status"] for name, each in found.items()} == {
        "one": "done",
        "two": "done",
        "damaged": "damaged",
    }
    assert (found["one"]["target"], found["two"]["target"]) == ("remove 1", "ratio 0.34")
    assert (found["one"]["removed"], found["two"]["removed"]) == (1, 2)
    assert isinstance(one, shapcut.PruneResult)
    assert found["one"]["perplexity"] == one.after.perplexity.perplexity
    assert run(["runs", str(tmp_path / "runs")]) == 0
    assert "do not compare" not in capfd.readouterr().out


def test_a_directory_without_runs_is_refused(tmp_path: Path, capfd: Any) -> None:
    assert run(["runs", str(tmp_path)]) == BAD_INPUT
    assert "holds no run" in capfd.readouterr().err
    assert run(["runs", str(tmp_path / "none")]) == BAD_INPUT
    assert "is not a directory" in capfd.readouterr().err
