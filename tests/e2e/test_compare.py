"""`shapcut compare`: what it reports and leaves, that it resumes, and what it refuses."""

import csv
import json
import math
import shutil
import signal
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from forks import Killer, forked

from shapcut.cli import app
from shapcut.cli.exits import BAD_INPUT
from shapcut.cli.main import run
from shapcut.comparison.compare import compare as compare_methods
from shapcut.comparison.contestants import parse_methods
from shapcut.host.host import build_host
from shapcut.measurement.perplexity import perplexity
from shapcut.recipe.recipe import make_recipe
from shapcut.support.progress import Counter, Silent
from shapcut.support.quiet import quiet_libraries
from shapcut.support.run_directory import open_run
from shapcut_adapters.transformers.adapter import HFDecoderAdapter
from shapcut_plugins.report.comparison_data import ComparisonFacts
from shapcut_plugins.report.comparison_page import render_comparison

SIZES = ["--samples", "3", "--sequence-length", "24", "--finalist-samples", "4", "--held-out-samples", "4"]
CHEAP = "random,last-n,block-influence,angular,leave-one-out,taylor,greedy,evolutionary@20,shapley@20"


def compare(model: Path, directory: Path, capsys: Any, *options: str) -> Any:
    """The JSON that a comparison prints."""
    command = ["compare", str(model), "--run", str(directory), "--json", *SIZES, *options]
    assert run(command) == 0, capsys.readouterr().err
    return json.loads(capsys.readouterr().out)


def evaluations(directory: Path) -> int:
    with sqlite3.connect(directory / "evaluations.sqlite") as store:
        (count,) = store.execute("SELECT COUNT(*) FROM evaluations").fetchone()
    return int(count)


def test_methods_share_text_and_store_and_each_has_its_account(
    tiny_llama_directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = tmp_path / "run"
    options = ["--methods", f"{CHEAP},ours@20", "--remove", "1,2", "--seeds", "0,1", "--dtype", "float32"]
    content = compare(tiny_llama_directory, directory, capsys, *options)
    rows = {(row["method"], row["n_remove"], row["seed"]): row for row in content["rows"]}
    assert len(rows) == len(content["rows"]) == 10 * 2 * 2
    assert json.loads((directory / "comparison.json").read_text()) == content
    for (_, n_remove, _), row in rows.items():
        assert row["failure"] == ""
        assert len(row["removed"]) == n_remove
        assert row["held_out_perplexity"] > 0
    tokens = 3 * 24
    for n_remove in (1, 2):
        for seed in (0, 1):
            cost = {
                row["method"]: row["tokens"]
                for row in content["rows"]
                if (row["n_remove"], row["seed"]) == (n_remove, seed)
            }
            assert cost["random"] == cost["last-n"] == 0
            assert cost["block-influence"] == cost["angular"] == tokens
            assert cost["taylor"] == 3 * tokens
            assert cost["leave-one-out"] == 7 * tokens
            assert cost["greedy"] == (6, 6 + 5)[n_remove - 1] * tokens
            assert 0 < cost["evolutionary@20"] <= 20 * tokens
            assert cost["ours@20"] >= 7 * tokens
            singles = rows["leave-one-out", n_remove, seed]
            assert singles["block_tokens"] == (6 + 6 * 5) * tokens
    # greedy's first step and leave-one-out measure the same: both pay, one set is removed by both
    assert rows["greedy", 1, 0]["removed"] == rows["leave-one-out", 1, 0]["removed"]
    assert rows["greedy", 1, 0]["seconds"] >= rows["greedy", 1, 0]["seconds_elapsed"]
    asked = sum(row["evaluations"] for row in content["rows"])
    assert evaluations(directory) < asked


def test_held_out_perplexity_is_that_of_the_bypassed_model_on_the_first_windows(
    tiny_llama_directory: Path, tokenizer: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from transformers import AutoModelForCausalLM  # noqa: PLC0415 - seconds to import

    text = tmp_path / "other.txt"
    text.write_text("".join(f"{number} is a number. " for number in range(400)))
    options = ["--methods", "last-n", "--ratios", "0.34", "--held-out", str(text), "--held-out-length", "40"]
    content = compare(tiny_llama_directory, tmp_path / "run", capsys, *options)
    assert content["text"]["held_out_windows"] == [4, 40]
    with quiet_libraries():
        model = AutoModelForCausalLM.from_pretrained(tiny_llama_directory).eval()
    ids = torch.tensor(tokenizer(text.read_text())["input_ids"][:160]).reshape(4, 40)
    adapter = HFDecoderAdapter()
    dense = perplexity(adapter, model, ids).perplexity
    with adapter.bypass(model, [0, 1, 2, 3]):
        pruned = perplexity(adapter, model, ids).perplexity
    assert content["dense_held_out_perplexity"] == pytest.approx(dense, rel=1e-4)
    (row,) = content["rows"]
    assert row["removed"] == [4, 5]
    assert row["held_out_perplexity"] == pytest.approx(pruned, rel=1e-4)
    assert pruned != pytest.approx(dense, rel=1e-2)


class Counts(Silent):
    """What a reporter is told, task by task."""

    def __init__(self) -> None:
        self.of: dict[str, list[int]] = {}

    @contextmanager
    def counting(self, what: str, total: int) -> Iterator[Counter]:
        yield self.of.setdefault(what, []).append


def test_progress_counts_what_a_method_measures_itself(tiny_llama_directory: Path, tmp_path: Path) -> None:
    options = {"model": str(tiny_llama_directory), "samples": 3, "sequence_length": 24, "remove": 2}
    recipe = make_recipe({**options, "finalist_samples": 4, "held_out_samples": 4})
    counts = Counts()
    compare_methods(
        recipe,
        parse_methods("shapley@20,greedy,evolutionary@20,ours@20"),
        [recipe],
        seeds=[0],
        run_directory=tmp_path / "run",
        host=build_host(),
        reporter=counts,
    )
    assert counts.of["shapley@20"][-1] == 20
    assert 0 < max(counts.of["greedy"]) <= 6 + 5
    assert 0 < counts.of["evolutionary@20"][-1] <= 20
    assert 0 < counts.of["ours@20"][-1] <= 20


def run_and_die(evaluations: int, command: list[str]) -> None:
    app.build_host = partial(build_host, extra=[Killer(evaluations)])
    run(command)


def test_a_killed_comparison_goes_on_without_repeating(
    tiny_llama_directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--methods", "last-n,greedy,shapley@20,evolutionary@20", "--remove", "2"]
    whole = compare(tiny_llama_directory, tmp_path / "whole", capsys, *options)
    directory = tmp_path / "killed"
    command = ["compare", str(tiny_llama_directory), "--run", str(directory), *SIZES, *options]
    killed = forked(partial(run_and_die, 14, command))
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    stored = evaluations(directory)
    finished = json.loads((directory / "comparison.json").read_text())["rows"]
    assert 14 <= stored < evaluations(tmp_path / "whole")
    assert [row["method"] for row in finished] == ["last-n", "greedy"]
    resumed = compare(tiny_llama_directory, directory, capsys, *options)
    assert resumed["rows"][:2] == finished
    assert evaluations(directory) == evaluations(tmp_path / "whole")
    with sqlite3.connect(directory / "evaluations.sqlite") as store:
        (measured,) = store.execute("SELECT SUM(evaluations) FROM durations").fetchone()
    assert measured == evaluations(directory)
    timing = {"seconds", "seconds_elapsed"}
    for one, other in zip(whole["rows"], resumed["rows"], strict=True):
        assert {key: one[key] for key in one.keys() - timing} == {
            key: other[key] for key in one.keys() - timing
        }


def test_other_settings_in_the_same_directory_are_other_rows(
    tiny_llama_directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = compare(tiny_llama_directory, tmp_path, capsys, "--methods", "greedy", "--remove", "2")
    other = compare(
        tiny_llama_directory, tmp_path, capsys, "--methods", "greedy", "--remove", "2", "--seeds", "3"
    )
    again = compare(tiny_llama_directory, tmp_path, capsys, "--methods", "greedy", "--remove", "2")
    assert first["rows"][0]["key"] != other["rows"][0]["key"]
    assert again == first


def test_a_method_that_cannot_work_says_why_in_its_row(
    tiny_llama_directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--methods", "exact+ranking@9,last-n", "--remove", "2"]
    bad, good = compare(tiny_llama_directory, tmp_path, capsys, *options)["rows"]
    assert "needs a budget of at least 64 coalitions, got 9" in bad["failure"]
    assert bad["held_out_perplexity"] is None
    assert good["failure"] == ""
    assert "needs a budget of at least 64" in (tmp_path / "comparison.html").read_text()


REFUSED = {
    "unknown method": (["--methods", "gredy", "--remove", "2"], "did you mean 'greedy'?"),
    "unknown estimator": (["--methods", "surogate+search", "--remove", "2"], "did you mean 'surrogate'?"),
    "unknown selector": (["--methods", "surrogate+serch", "--remove", "2"], "did you mean 'search'?"),
    "budget that is none": (["--methods", "paper@many", "--remove", "2"], "'many'"),
    "twice": (["--methods", "random,random", "--remove", "2"], "'random' twice"),
    "no target": (["--methods", "random"], "--remove 3,6 or --ratios"),
    "two targets": (["--methods", "random", "--remove", "2", "--ratios", "0.2"], "either"),
    "ratio above one": (["--methods", "random", "--ratios", "0.2,1.5"], "ratio 1.5"),
    "ratio that is no number": (["--methods", "random", "--ratios", "0.2,x"], "--ratios 0.2,x"),
    "remove everything": (["--methods", "random", "--remove", "2,6"], "1 to 5"),
    "seed that is no number": (["--methods", "random", "--remove", "2", "--seeds", "a"], "--seeds a"),
    "negative seed": (["--methods", "random", "--remove", "2", "--seeds", "-1"], "--seeds -1"),
    "held-out text that is missing": (["--remove", "2", "--held-out", "no.txt"], "no.txt"),
    "held-out text that is the calibration text": (
        ["--remove", "2", "--held-out", "builtin"],
        "last quarter",
    ),
    "a length of nothing": (["--remove", "2", "--held-out-length", "9"], "--held-out-length"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_input_is_one_line_and_nothing_is_written(
    case: str, tiny_llama_directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options, words = REFUSED[case]
    command = ["compare", str(tiny_llama_directory), "--run", str(tmp_path / "run"), *SIZES, *options]
    assert run(command) == BAD_INPUT
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    assert words in line
    assert not (tmp_path / "run").exists()


def test_a_damaged_list_of_rows_is_refused(
    tiny_llama_directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with open_run(tmp_path) as kept:
        kept.rows.write_text("[{}]")
    command = ["compare", str(tiny_llama_directory), "--run", str(tmp_path), *SIZES, "--remove", "2"]
    assert run([*command, "--methods", "random"]) == BAD_INPUT
    assert "rows.json cannot be continued" in capsys.readouterr().err


def test_names_with_options_and_budgets() -> None:
    parsed = parse_methods("surrogate:share=0.5,focus=2+search:batch=4,patience=1@300,greedy, paper@1000")
    assert [(one.method.estimator, one.method.selector, one.budget) for one in parsed] == [
        ("surrogate:share=0.5,focus=2", "search:batch=4,patience=1", 300),
        ("none", "greedy", None),
        ("paper", "ranking", 1000),
    ]
    (greedy, paper) = parse_methods("greedy,paper")
    assert greedy.evaluations(10, 3, 500) == 10 + 9 + 8
    assert paper.evaluations(10, 3, 500) == 500


@pytest.mark.parametrize("preset", ["angular", "evolutionary", "greedy", "random", "taylor"])
def test_methods_prune(preset: str, tiny_llama_directory: Path, tmp_path: Path) -> None:
    command = ["prune", str(tiny_llama_directory), "--out", str(tmp_path / "out"), "--remove", "2"]
    assert run([*command, *SIZES, "--preset", preset, "--budget", "40"]) == 0
    manifest = json.loads((tmp_path / "out.run" / "manifest.json").read_text())
    cost = manifest["phases"]["select"]["cost"]
    assert cost["evaluations"] <= 40 + 4
    assert cost["tokens"] > 0
    assert len(json.loads((tmp_path / "out" / "plan.json").read_text())["removed"]) == 2


def test_the_page_escapes_everything() -> None:
    evil = "<script>alert(1)</script>"
    row = {
        "method": evil,
        "source": evil,
        "n_remove": 1,
        "seed": 0,
        "removed": [0],
        "calibration_nats": 1.0,
        "held_out_perplexity": 9.0,
        "evaluations": 1,
        "tokens": 10,
        "seconds": 1.0,
        "reason": evil,
        "failure": "",
    }
    facts = ComparisonFacts.model_validate(
        {
            "format_version": 1,
            "model": {"source": evil, "class": evil, "players": 3},
            "text": {
                "calibration": evil,
                "calibration_windows": [1, 2],
                "held_out": evil,
                "held_out_windows": [1, 2],
                "adds_bos": False,
            },
            "dense_held_out_perplexity": None,
            "rows": [row, {**row, "failure": evil, "held_out_perplexity": None}, {**row, "tokens": 0}],
        }
    )
    page = render_comparison(facts)
    assert page.count("<script") == 1  # its own
    assert page.count("<circle") == 2
    assert "http" not in page.replace("http://www.w3.org/2000/svg", "").replace("http-equiv", "")


def test_intervals_and_ties_are_written_and_shown(
    tiny_llama_directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = tmp_path / "run"
    options = ["--methods", "greedy,leave-one-out,last-n", "--remove", "1,2"]
    content = compare(tiny_llama_directory, directory, capsys, *options)
    found = {(each["method"], each["n_remove"]): each for each in content["standings"]}
    assert found["greedy", 1]["best"] is found["leave-one-out", 1]["best"]  # both remove the same
    for row in content["rows"]:
        assert len(row["held_out_nats"]) == 4
        mean = sum(row["held_out_nats"]) / 4
        assert row["held_out_perplexity"] == pytest.approx(math.exp(mean))
        low, high = found[row["method"], row["n_remove"]]["interval"]
        assert low < row["held_out_perplexity"] < high
    assert {each["sizes"] for each in content["summary"]} == {2}
    page = (directory / "comparison.html").read_text(encoding="utf-8")
    assert page.index('id="summary"') < page.index("<h2>1 removed</h2>")
    for verdict in content["verdicts"].values():
        assert verdict in page
    command = ["compare", str(tiny_llama_directory), "--run", str(directory), *SIZES, *options]
    assert run(command) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "judged on builtin, 4 windows of 24 tokens" in out
    assert out.index("best or not") < out.index("every row")
    assert content["verdicts"]["1"] in out


def test_rows_of_an_older_version_are_judged_again_but_not_measured(
    tiny_llama_directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = tmp_path / "run"
    options = ["--methods", "greedy", "--remove", "1"]
    content = compare(tiny_llama_directory, directory, capsys, *options)
    rows = json.loads((directory / "rows.json").read_text())
    seconds = rows[0]["seconds"] = 123.0
    del rows[0]["held_out_nats"]
    (directory / "rows.json").write_text(json.dumps(rows))
    again = compare(tiny_llama_directory, directory, capsys, *options)
    assert again["rows"][0]["held_out_nats"] == content["rows"][0]["held_out_nats"]
    assert again["rows"][0]["seconds"] == seconds


def test_a_given_budget_is_that_of_ours_too(
    tiny_llama_directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--methods", "ours,greedy,leave-one-out", "--remove", "2"]
    plain = compare(tiny_llama_directory, tmp_path / "plain", capsys, *options)
    given = compare(tiny_llama_directory, tmp_path / "given", capsys, *options, "--budget", "9")
    budgets = [{row["method"]: row["budget"] for row in each["rows"]} for each in (plain, given)]
    assert budgets[1] == {**budgets[0], "ours": 9}
    assert budgets[0]["ours"] > 9


@pytest.mark.parametrize("command", ["prune", "compare"])
def test_blocks_that_do_nothing_stop_a_run_with_one_line(
    command: str, tiny_llama_directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from transformers import AutoModelForCausalLM  # noqa: PLC0415 - seconds to import

    idle = tmp_path / "idle"
    shutil.copytree(tiny_llama_directory, idle)
    with quiet_libraries(), torch.no_grad():
        model = AutoModelForCausalLM.from_pretrained(tiny_llama_directory)
        for name, weight in model.named_parameters():
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                weight.zero_()
        model.save_pretrained(idle)
    place = ["--out", str(tmp_path / "out")] if command == "prune" else ["--methods", "ours"]
    arguments = [command, str(idle), *place, "--remove", "2", "--run", str(tmp_path / "run")]
    assert run([*arguments, *SIZES, "--log-level", "warning"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "measured coalitions have the same value" in line


def test_several_models_are_compared_and_resumed(
    tiny_llama_directory: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other" / tiny_llama_directory.name
    shutil.copytree(tiny_llama_directory, other)
    table, place = tmp_path / "rows.csv", tmp_path / "several"
    arguments = [
        "compare",
        str(tiny_llama_directory),
        str(other),
        "--methods",
        "random,last-n",
        "--remove",
        "2",
    ]
    arguments += ["--samples", "2", "--sequence-length", "16", "--held-out-samples", "2", "--run", str(place)]
    assert run([*arguments, "--json", "--csv", str(table)]) == 0
    content = json.loads(capfd.readouterr().out)
    assert [len(each["rows"]) for each in content["models"]] == [2, 2]
    assert sorted(path.name for path in place.iterdir()) == ["0-tiny-llama", "1-tiny-llama"]
    rows = list(csv.DictReader(table.read_text(encoding="utf-8").splitlines()))
    assert [row["model"] for row in rows] == [str(tiny_llama_directory)] * 2 + [str(other)] * 2
    assert float(rows[0]["held_out_perplexity"]) == content["models"][0]["rows"][0]["held_out_perplexity"]
    before = (place / "0-tiny-llama" / "rows.json").read_text()
    assert run([*arguments, "--csv", str(table)]) == BAD_INPUT
    assert "--csv" in capfd.readouterr().err
    assert run(arguments) == 0
    assert (place / "0-tiny-llama" / "rows.json").read_text() == before
    assert run(["compare", str(other), str(other), "--remove", "2"]) == BAD_INPUT
    assert "named twice" in capfd.readouterr().err
