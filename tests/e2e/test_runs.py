"""Runs in a directory, side by side."""

import json
from pathlib import Path
from typing import Any

import pytest

import shapcut
from shapcut.cli.exits import BAD_INPUT
from shapcut.cli.main import run
from shapcut.pipeline.runs import read_runs


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


def test_a_run_that_ends_with_an_error_is_listed_as_failed(
    tiny_llama_directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = tmp_path / "runs"
    options: dict[str, Any] = {"samples": 2, "sequence_length": 16, "held_out_samples": 2, "budget": 12}
    monkeypatch.setattr("shapcut.pipeline.prune.carry_out", failing)
    with pytest.raises(shapcut.ShapcutError):
        shapcut.prune(str(tiny_llama_directory), out=tmp_path / "out", run=runs / "one", remove=1, **options)
    (found,) = read_runs(runs)
    assert found.status == "failed"
    assert json.loads((runs / "one" / "manifest.json").read_text())["reason"] == "the disk is full"
    monkeypatch.undo()
    shapcut.prune(str(tiny_llama_directory), out=tmp_path / "out", run=runs / "one", remove=1, **options)
    (found,) = read_runs(runs)
    assert found.status == "done"


def failing(*_: Any, **__: Any) -> None:
    raise shapcut.ShapcutError("the disk is full")


def test_the_time_of_an_applied_plan_is_that_from_start_to_end(
    tiny_llama_directory: Path, tmp_path: Path
) -> None:
    (tmp_path / "plan.json").write_text(shapcut.RemovalPlan.removing((1,), 6).model_dump_json())
    command = ["apply", str(tiny_llama_directory), "--plan", str(tmp_path / "plan.json")]
    place = ["--out", str(tmp_path / "out"), "--run", str(tmp_path / "runs" / "one")]
    assert run([*command, *place]) == 0
    manifest = tmp_path / "runs" / "one" / "manifest.json"
    content = json.loads(manifest.read_text())
    manifest.write_text(
        json.dumps(
            {**content, "started": "2026-01-01T00:00:00+00:00", "finished": "2026-01-01T00:01:30+00:00"}
        )
    )
    (found,) = read_runs(tmp_path / "runs")
    assert found.seconds == 90.0


def test_a_comparison_is_listed_with_its_methods(tiny_llama_directory: Path, tmp_path: Path) -> None:
    command = ["compare", str(tiny_llama_directory), "--methods", "last-n,block-influence", "--remove", "1,2"]
    sizes = ["--samples", "2", "--sequence-length", "16", "--held-out-samples", "2"]
    assert run([*command, *sizes, "--run", str(tmp_path / "runs" / "one")]) == 0
    (found,) = read_runs(tmp_path / "runs")
    assert found.method == "comparison of last-n, block-influence"
    assert (found.target, found.removed) == ("remove 1, 2", None)


def test_perplexities_and_accuracies_are_shown_by_text_task_and_cut(
    tiny_llama_directory: Path, tmp_path: Path, capfd: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = tmp_path / "words.txt"
    words.write_text("the quick brown fox jumps over the lazy dog\n" * 300)
    options: dict[str, Any] = {"samples": 2, "sequence_length": 16, "held_out_samples": 2, "budget": 12}
    model, runs = str(tiny_llama_directory), tmp_path / "runs"
    shapcut.prune(model, out=tmp_path / "one", run=runs / "one", remove=1, judge_on=[str(words)], **options)
    options["held_out_samples"] = 3
    shapcut.prune(model, out=tmp_path / "two", run=runs / "two", remove=[1, 2], judge_on=["none"], **options)
    add_a_task(runs / "one" / "manifest.json")
    monkeypatch.setenv("COLUMNS", "400")
    assert run(["runs", str(runs), "--json"]) == 0
    one, two = json.loads(capfd.readouterr().out)
    held_out, other = one["cuts"]["pruned"]["texts"]
    assert (held_out["source"], other["source"]) == ("builtin", str(words))
    assert held_out["after"] == one["perplexity"] != other["after"]
    assert list(two["cuts"]) == ["remove-1", "remove-2"]
    assert [len(cut["texts"]) for cut in two["cuts"].values()] == [1, 1]
    assert run(["runs", str(runs)]) == 0
    _, _, shown = capfd.readouterr().out.partition("perplexity, by text")
    texts, _, tasks = shown.partition("accuracy, by task")
    assert f"{other['before']:,.2f} to {other['after']:,.2f} (" in texts
    assert "%)" in texts
    assert [line.count("two: remove-") for line in texts.splitlines()].count(1) == 2
    assert "75.0% to 50.0%" in tasks
    assert "two" not in tasks.partition("the runs read")[0]
    assert "the runs read different tokens of builtin: these perplexities do not compare" in tasks


def add_a_task(manifest: Path) -> None:
    """Let a run's models have answered four questions."""
    content = json.loads(manifest.read_text())
    for which, answers in (("dense", "1110"), ("pruned", "1100")):
        score = {"task": "piqa", "samples": 4, "shots": 0, "metrics": {}, "errors": {}, "questions": "same"}
        content["result"][which]["tasks"] = [{**score, "answers": {"acc": answers}}]
    manifest.write_text(json.dumps(content))


def test_a_directory_without_runs_is_refused(tmp_path: Path, capfd: Any) -> None:
    assert run(["runs", str(tmp_path)]) == BAD_INPUT
    assert "holds no run" in capfd.readouterr().err
    assert run(["runs", str(tmp_path / "none")]) == BAD_INPUT
    assert "is not a directory" in capfd.readouterr().err
