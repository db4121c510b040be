"""Bad input: one line on stderr and exit status 2, before any evaluation and without a result."""

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from shapcut.cli.exits import BAD_INPUT, FAILED
from shapcut.cli.main import run
from shapcut.game.plan import RemovalPlan
from shapcut.pipeline import score as scoring


@pytest.fixture
def text_file(tmp_path: Path) -> Path:
    """Enough text for every default."""
    file = tmp_path / "text.txt"
    file.write_text("\n".join(f"line {number}: the quick brown fox" for number in range(3000)))
    return file


def files_below(directory: Path) -> set[Path]:
    return {path for path in directory.rglob("*") if path.is_file()}


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line that a refused command leaves."""
    status = run(arguments)
    captured = capsys.readouterr()
    assert status == BAD_INPUT, captured.err
    assert captured.out == ""
    lines = captured.err.splitlines()
    assert len(lines) == 1, captured.err
    assert lines[0].startswith("shapcut: ")
    return lines[0]


PRUNE_CASES = {
    "remove nothing": (["--remove", "0"], "remove 0"),
    "remove a negative number": (["--remove", "-1"], "remove -1"),
    "remove everything": (["--remove", "6"], "1 to 5"),
    "remove more than there is": (["--remove", "31"], "31"),
    "two targets": (["--remove", "2", "--ratio", "0.2"], "two targets"),
    "no target": ([], "no target"),
    "ratio above one": (["--ratio", "1.5"], "ratio 1.5"),
    "ratio that removes nothing": (["--ratio", "0.01"], "ratio 0.01"),
    "unknown estimator": (["--remove", "2", "--estimator", "surogate"], "did you mean 'surrogate'?"),
    "unknown selector": (["--remove", "2", "--selector", "serch"], "did you mean 'search'?"),
    "unknown utility": (["--remove", "2", "--utility", "log-likelyhood"], "did you mean 'log-likelihood'?"),
    "unknown sampler": (["--remove", "2", "--sampler", "shaply"], "did you mean 'shapley'?"),
    "unknown step": (["--remove", "2", "--then", "gptqq"], "gptqq"),
    "unknown option of an estimator": (["--remove", "2", "--estimator", "paper:mask=3"], "mask"),
    "option value of the wrong type": (["--remove", "2", "--selector", "search:batch=many"], "many"),
    "option that is no pair": (["--remove", "2", "--selector", "search:batch"], "key=value"),
    "sampler for an estimator without one": (
        ["--remove", "2", "--estimator", "exact", "--sampler", "shapley"],
        "sampler",
    ),
    "budget zero": (["--remove", "2", "--budget", "0"], "budget"),
    "budget too small": (["--remove", "2", "--budget", "3"], "budget"),
    "exact with too small a budget": (["--remove", "2", "--estimator", "exact", "--budget", "63"], "64"),
    "unknown preset": (["--remove", "2", "--preset", "papper"], "papper"),
    "unknown dtype": (["--remove", "2", "--dtype", "float8"], "float8"),
    "unknown device": (["--remove", "2", "--device", "tpu9"], "tpu9"),
    "a memory budget that is no size": (["--remove", "2", "--memory-budget", "lots"], "memory-budget lots"),
    "no memory": (["--remove", "2", "--memory-budget", "0"], "memory-budget 0"),
    "batches of nothing": (["--remove", "2", "--batch-size", "0"], "batch-size 0"),
    "unknown compilation": (["--remove", "2", "--compile", "maybe"], "compile maybe"),
    "unknown offload": (["--remove", "2", "--offload", "moon"], "offload moon"),
    "offload in another format": (
        ["--remove", "2", "--offload", "disk", "--dtype", "bfloat16"],
        "--dtype bfloat16 is unavailable with --offload",
    ),
    "unknown executor": (["--remove", "2", "--executor", "rai"], "did you mean 'ray'?"),
    "no samples": (["--remove", "2", "--samples", "0"], "samples"),
    "windows of one token": (["--remove", "2", "--sequence-length", "1"], "sequence-length 1"),
    "windows longer than the model reads": (["--remove", "2", "--sequence-length", "512"], "512"),
    "missing calibration file": (["--remove", "2", "--calibration", "nowhere.txt"], "nowhere.txt"),
    "negative seed": (["--remove", "2", "--seed", "-1"], "seed"),
    "text as a number": (["--remove", "two"], "two"),
    "sublayers": (["--cache", "1kB@9", "--granularity", "sublayer"], "--form remote-code"),
    "an unknown form": (
        ["--remove", "2", "--form", "sibling"],
        "form sibling: give one of plain",
    ),
    "unknown granularity": (["--remove", "2", "--granularity", "head"], "head"),
    "missing recipe": (["--recipe", "nowhere.yaml"], "nowhere.yaml"),
    "unknown option": (["--remov", "2"], "--remov"),
}


@pytest.mark.parametrize(("arguments", "words"), PRUNE_CASES.values(), ids=PRUNE_CASES)
def test_prune_refuses(
    arguments: list[str],
    words: str,
    tmp_path: Path,
    text_file: Path,
    tiny_llama_directory: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    calibration = [] if "--calibration" in arguments else ["--calibration", str(text_file)]
    command = ["prune", str(tiny_llama_directory), "--out", str(tmp_path / "out"), *calibration, *arguments]
    assert words in refused(command, capsys)
    assert not (tmp_path / "out").exists()
    assert not {"plan.json", "contributions.json"} & {path.name for path in files_below(tmp_path)}


MODEL_CASES = {
    "unknown model": ("no/such-model-anywhere", "unknown model"),
    "unknown demo": ("demo:smolm2-135m", "did you mean 'smollm2-135m'?"),
    "empty name": ("", "unknown model"),
}


@pytest.mark.parametrize(("model", "words"), MODEL_CASES.values(), ids=MODEL_CASES)
@pytest.mark.parametrize("command", ["inspect", "score", "evaluate"])
def test_unknown_models(model: str, words: str, command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert words in refused([command, model], capsys)


@pytest.mark.parametrize("command", ["inspect", "score", "evaluate"])
def test_an_encoder_is_refused(
    command: str, tiny_bert_directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "not a causal language model" in refused([command, str(tiny_bert_directory)], capsys)


@pytest.mark.parametrize("content", ["", "too short"])
def test_text_that_is_too_short(
    content: str, tmp_path: Path, tiny_llama_directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = tmp_path / "short.txt"
    text.write_text(content)
    command = ["prune", str(tiny_llama_directory), "--out", str(tmp_path / "out"), "--remove", "2"]
    line = refused([*command, "--calibration", str(text)], capsys)
    assert "short" in line
    assert files_below(tmp_path) == {text}


def test_an_output_that_is_not_empty(
    tmp_path: Path, tiny_llama_directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "precious").write_text("mine")
    command = ["prune", str(tiny_llama_directory), "--remove", "2", "--out", str(tmp_path)]
    assert "not an empty directory" in refused(command, capsys)
    assert files_below(tmp_path) == {tmp_path / "precious"}


@pytest.mark.parametrize("option", ["--out", "--run"])
def test_a_place_that_cannot_be_written(
    option: str,
    tmp_path: Path,
    text_file: Path,
    tiny_llama_directory: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a directory")
    places = {"--out": tmp_path / "out", "--run": tmp_path / "run", option: blocked / "below"}
    command = ["prune", str(tiny_llama_directory), "--remove", "2", "--calibration", str(text_file)]
    command += [word for name, place in places.items() for word in (name, str(place))]
    assert "cannot be written" in refused(command, capsys)


RECIPE_CASES = {
    "unknown key": ("remve: 2\n", "did you mean 'remove'?"),
    "not a mapping": ("- 2\n", "mapping"),
    "not yaml": ("remove: [", "not YAML"),
    "wrong type": ("remove: many\n", "many"),
}


@pytest.mark.parametrize(("content", "words"), RECIPE_CASES.values(), ids=RECIPE_CASES)
def test_bad_recipes(
    content: str, words: str, tmp_path: Path, tiny_llama_directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(content)
    command = ["prune", str(tiny_llama_directory), "--out", str(tmp_path / "out"), "--recipe", str(recipe)]
    assert words in refused(command, capsys)


def plan_cases() -> dict[str, tuple[str, str]]:
    fitting = RemovalPlan.removing([1, 2], 6)
    return {
        "for more players": (RemovalPlan.removing([1, 2], 7).model_dump_json(), "7 players"),
        "for another model": (
            fitting.model_copy(update={"model_fingerprint": "0" * 64}).model_dump_json(),
            "another model",
        ),
        "not JSON": ("{", "not a removal plan"),
        "a gap": (json.dumps({"removed": [1], "kept": [0, 3]}), "not a removal plan"),
        "unknown key": (fitting.model_dump_json()[:-1] + ', "extra": 1}', "not a removal plan"),
    }


@pytest.mark.parametrize(("content", "words"), plan_cases().values(), ids=plan_cases())
def test_plans_that_do_not_fit(
    content: str, words: str, tmp_path: Path, tiny_llama_directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = tmp_path / "plan.json"
    plan.write_text(content)
    command = ["apply", str(tiny_llama_directory), "--plan", str(plan), "--out", str(tmp_path / "out")]
    assert words in refused(command, capsys)
    assert not (tmp_path / "out").exists()


def test_a_store_of_another_run(
    tmp_path: Path, text_file: Path, tiny_llama_directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    score = ["score", str(tiny_llama_directory), "--run", str(tmp_path / "run"), "--budget", "20"]
    score += ["--samples", "2", "--sequence-length", "16", "--calibration", str(text_file)]
    assert run(score) == 0
    capsys.readouterr()
    line = refused([*score, "--utility", "kl"], capsys)
    assert "log-likelihood" in line
    assert "kl" in line


def test_a_full_disk_is_one_line_and_status_1(
    tmp_path: Path,
    tiny_llama_directory: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def no_space(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(scoring, "write_json_atomically", no_space)
    sizes = ["--samples", "2", "--sequence-length", "16", "--budget", "20"]
    assert run(["score", str(tiny_llama_directory), "--run", str(tmp_path / "run"), *sizes]) == FAILED
    assert capsys.readouterr().err.splitlines()[-1].startswith("shapcut: ")


def test_output_that_nobody_reads_ends_quietly() -> None:
    script = "from shapcut.cli import main; main(['--help'])"
    with subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == FAILED


def test_an_unknown_adapter(capsys: pytest.CaptureFixture[str]) -> None:
    assert "did you mean 'hf-decoder'?" in refused(["check-adapter", "hf-decodr"], capsys)
    assert "did you mean 'llama'?" in refused(["check-adapter", "hf-decoder", "--example", "lama"], capsys)


def test_a_directory_of_somebody_else_is_no_run_directory(
    tiny_llama_directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    theirs = tmp_path / "steps" / "my-notes" / "thesis.txt"
    theirs.parent.mkdir(parents=True)
    theirs.write_text("years of work")
    before = {path: path.read_bytes() for path in files_below(tmp_path)}
    for command in (["prune", "--out", str(tmp_path.with_name("out")), "--remove", "2"], ["score"]):
        arguments = [*command, str(tiny_llama_directory), "--run", str(tmp_path)]
        assert "is not a run directory (it holds steps)" in refused(arguments, capsys)
    assert {path: path.read_bytes() for path in files_below(tmp_path)} == before


def test_a_tokenizer_of_another_model(
    tiny_llama_directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = Path(shutil.copytree(tiny_llama_directory, tmp_path / "model"))
    content = json.loads((model / "tokenizer.json").read_text())
    content["model"]["vocab"] = {word: number + 1000 for word, number in content["model"]["vocab"].items()}
    for token in content["added_tokens"]:
        token["id"] += 1000
    (model / "tokenizer.json").write_text(json.dumps(content))
    line = refused(["score", str(model), "--run", str(tmp_path / "run"), "--samples", "2"], capsys)
    assert "put the model's own tokenizer beside its weights" in line
    assert not (tmp_path / "run").exists()
