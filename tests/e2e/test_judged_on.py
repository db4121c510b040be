"""Perplexity on other texts than the calibration's: measured, named and paired wherever a model is judged."""

import csv
import json
import math
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM

import shapcut
from shapcut.cli.exits import BAD_INPUT
from shapcut.cli.main import run
from shapcut.cli.tables import cut_lines
from shapcut.data.windows import load_held_out
from shapcut.measurement.perplexity import perplexity
from shapcut.pipeline.result import PruneResult
from shapcut.pipeline.series import SeriesResult
from shapcut.support.quiet import quiet_libraries
from shapcut_adapters.transformers.adapter import HFDecoderAdapter

SIZES = ["--samples", "2", "--finalist-samples", "0", "--budget", "10"]
JUDGED = ["--sequence-length", "24", "--held-out-samples", "3"]
FAST = ["--repeats", "0", "--cache-lengths", "none"]

Texts = tuple[Path, Path]


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Texts:
    """Two texts of different kinds."""
    directory = tmp_path_factory.mktemp("texts")
    numbers, words = directory / "numbers.txt", directory / "words.txt"
    numbers.write_text("".join(f"{number} is a number. " for number in range(900)))
    words.write_text("the quick brown fox jumps over the lazy dog\n" * 300)
    return numbers, words


@pytest.fixture(scope="module")
def pruned(
    tiny_llama_directory: Path, texts: Texts, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, str]:
    """A checkpoint calibrated on one text and judged on two others, and what the console said of it."""
    out = tmp_path_factory.mktemp("judged") / "out"
    others = ["--judge-on", "builtin", "--judge-on", str(texts[1])]
    command = ["prune", str(tiny_llama_directory), "--out", str(out), "--remove", "1", *SIZES, *JUDGED]
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(StringIO()) as said:
        patch.setenv("COLUMNS", "400")
        assert run([*command, "--calibration", str(texts[0]), *others]) == 0
    return out, said.getvalue()


def evaluated(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    assert run(["evaluate", *arguments, *FAST, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def sources(content: Any) -> list[str]:
    return [each["source"] for each in content["other_texts"]]


def on_held_out_quarter(directory: Path, source: str, tokenizer: Any) -> float:
    """The perplexity on three windows, measured apart from any command."""
    with quiet_libraries():
        model = AutoModelForCausalLM.from_pretrained(directory).eval()
    ids = load_held_out(source, tokenizer, samples=3, sequence_length=24).input_ids
    return perplexity(HFDecoderAdapter(), model, ids).perplexity


def test_result_card_report_and_console_show_every_text(
    pruned: tuple[Path, str], texts: Texts, tiny_llama_directory: Path, tokenizer: Any
) -> None:
    out, said = pruned
    run_directory = out.with_name("out.run")
    result = json.loads((run_directory / "result.json").read_text())
    card, report = (out / "README.md").read_text(), (run_directory / "report.html").read_text()
    assert sources(result["dense"]) == sources(result["pruned"]) == ["builtin", str(texts[1])]
    for place, source in enumerate(("builtin", str(texts[1]))):
        found = [result[which]["other_texts"][place]["perplexity"] for which in ("dense", "pruned")]
        assert [len(each["window_nats"]) for each in found] == [3, 3]
        for each, directory in zip(found, (tiny_llama_directory, out), strict=True):
            assert each["perplexity"] == pytest.approx(
                on_held_out_quarter(directory, source, tokenizer), rel=1e-4
            )
        change = result["changes"][f"perplexity on {source}"]
        assert change["ratio"] == pytest.approx(found[1]["perplexity"] / found[0]["perplexity"], rel=1e-4)
        assert change["low"] < change["ratio"] < change["high"]
        assert f"perplexity on {source}" in said
        assert f"| perplexity, {source} | {found[0]['perplexity']:.2f}" in card.replace("\\", "")
        assert f"perplexity, {source}" in report
        assert f"; perplexity on {source} " in cut_lines(SeriesResult({"remove-1": result}, None))[0]
        assert f"perplexity on {source}" in PruneResult.from_json(result)._repr_html_()
        fingerprint = result["dense"]["other_texts"][place]["fingerprint"]
        assert all(fingerprint[:16] in page for page in (said, card, report))


def test_evaluate_judges_on_the_texts_of_the_recipe_or_on_those_it_is_given(
    pruned: tuple[Path, str], texts: Texts, tiny_llama_directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, _ = pruned
    numbers, words = map(str, texts)
    beside = evaluated(capsys, str(out), "--against", str(tiny_llama_directory))
    assert sources(beside["model"]) == sources(beside["against"]) == ["builtin", words]
    for name in ("perplexity on builtin", f"perplexity on {words}"):
        assert beside["intervals"][name]["low"] < beside["ratios"][name] < beside["intervals"][name]["high"]
    given = evaluated(capsys, str(out), "--judge-on", words, "--judge-on", numbers)
    assert sources(given) == [words]  # the held-out text is measured once
    assert given["other_texts"][0]["perplexity"]["interval"][0] > 0
    assert sources(evaluated(capsys, str(out), "--judge-on", "none")) == []
    assert sources(evaluated(capsys, str(out), "--text", words, *JUDGED)) == []
    sliding = evaluated(capsys, str(out), "--text", words, *JUDGED, "--stride", "8", "--judge-on", numbers)
    assert sliding["other_texts"][0]["perplexity"]["n_tokens"] == 3 * 24 - 1


def test_what_is_judged_on_without_the_option(
    texts: Texts, tiny_llama_directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, (numbers, words) = str(tiny_llama_directory), map(str, texts)
    assert sources(evaluated(capsys, model, *JUDGED)) == ["general"]  # the other built-in text is held out
    assert sources(evaluated(capsys, model, *JUDGED, "--calibration", numbers)) == ["builtin", "general"]
    mixture = ["--calibration", f"{numbers}:2+{words}"]
    assert sources(evaluated(capsys, model, *JUDGED, *mixture)) == [numbers, words, "builtin", "general"]
    found = shapcut.evaluate(model, calibration=words, windows=3, window=24, repeats=0)
    assert [each.source for each in found.other_texts] == ["builtin", "general"]


def test_a_text_that_cannot_be_read_is_refused_before_any_work(
    texts: Texts, tiny_llama_directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for named, problem in (
        (["self"], "--judge-on: the model's own text"),
        (["gone.txt"], "--judge-on: the text gone.txt does not exist"),
        (["none", str(texts[0])], "--judge-on none stands alone"),
    ):
        others = [word for source in named for word in ("--judge-on", source)]
        command = ["prune", str(tiny_llama_directory), "--out", str(tmp_path / "out"), "--remove", "1"]
        assert run([*command, *others]) == BAD_INPUT
        message = capsys.readouterr().err
        assert problem in message
        assert message.count("\n") == 1
    assert not list(tmp_path.iterdir())
    short = tmp_path / "short.txt"
    short.write_text("too short")
    assert run([*command, "--judge-on", str(short), *SIZES]) == BAD_INPUT
    message = capsys.readouterr().err
    assert f"--judge-on: the held-out quarter of {short} is too short" in message
    assert "lower --held-out-samples or" in message


def test_methods_are_ranked_on_every_text(
    texts: Texts, tiny_llama_directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    numbers, words = map(str, texts)
    table = tmp_path / "rows.csv"
    options = ["--methods", "last-n,random", "--remove", "2", *SIZES, *JUDGED, "--calibration", numbers]
    command = ["compare", str(tiny_llama_directory), "--run", str(tmp_path / "run"), *options]
    assert run([*command, "--judge-on", words, "--csv", str(table), "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    (text,) = content["other_texts"]
    assert (text["source"], text["windows"]) == (words, [3, 24])
    last = next(row for row in content["rows"] if row["method"] == "last-n")
    (found,) = last["other_texts"]
    assert found["perplexity"] == pytest.approx(math.exp(sum(found["nats"]) / 3), rel=1e-6)
    assert found["perplexity"] != pytest.approx(last["held_out_perplexity"], rel=1e-5)
    ranked = {each["method"]: each for each in text["standings"]}
    assert ranked["last-n"]["perplexity"] == pytest.approx(found["perplexity"], rel=1e-9)
    assert sum(each["over_best"] is None for each in ranked.values()) == 1
    with table.open(newline="") as file:
        rows = {row["method"]: row for row in csv.DictReader(file)}
    assert float(rows["last-n"][f"perplexity on {words}"]) == pytest.approx(found["perplexity"])
    assert "Perplexity on other texts" in (tmp_path / "run" / "comparison.html").read_text()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", "300")
        assert run([*command, "--judge-on", words]) == 0  # repeats no finished row
    said = capsys.readouterr().out
    assert f"2 removed, on {words}: " in said
    assert f"{found['perplexity']:.2f}" in said
