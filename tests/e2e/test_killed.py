"""A few runs killed at random moments; `benchmarks/kill.py` kills many."""

import importlib.util
import json
from pathlib import Path

import pytest
from forks import forked, script

from shapcut.cli.exits import BAD_INPUT, DONE, INTERRUPTED
from shapcut.cli.main import run
from shapcut.steps.runner import StepResults

pytestmark = pytest.mark.long

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "kill.py"


@pytest.mark.parametrize(
    ("kind", "moments", "kills"), [("prune", "operations", 2), ("full recipe", "phases", 7)]
)
def test_nothing_is_lost_repeated_or_half_written(
    kind: str, moments: str, kills: int, tiny_llama_directory: Path, tmp_path: Path
) -> None:
    missing = [name for name in ("peft", "torchao") if importlib.util.find_spec(name) is None]
    if kind == "full recipe" and missing:
        pytest.skip(f"{' and '.join(missing)} not installed")
    result = tmp_path / "kill.json"
    options = ["--kinds", kind, "--runs", "1", "--kills", "2", "--moments", moments]
    done = forked(script(SCRIPT, *options, "--model", tiny_llama_directory, "--result", result))
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(result.read_text())
    assert found["kills"] == kills
    assert found["runs_that_ended_done"] == 1
    assert set(found["faults"].values()) == {0}, found["faults"]


class Interruption:
    """Ends the process's work like a kill: when the checkpoint has appeared and nothing else is done."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._context = monkeypatch.context()

    def __enter__(self) -> None:
        patch = self._context.__enter__()

        def killed(*_: object) -> None:
            raise KeyboardInterrupt

        patch.setattr(StepResults, "clear", killed)

    def __exit__(self, *error: object) -> None:
        self._context.__exit__(*error)


def prune_command(model: Path, out: Path, *more: str, text: Path | None = None) -> list[str]:
    sizes = ["--samples", "2", "--sequence-length", "16", "--budget", "20", "--held-out-samples", "2"]
    finals = ["--finalist-samples", "0"] if text is None else ["--calibration", str(text)]
    return ["prune", str(model), "--out", str(out), *finals, *sizes, *more]


@pytest.mark.parametrize("short", [False, True], ids=["no finals wanted", "no text for finals"])
def test_a_run_killed_when_its_checkpoint_is_complete_ends_as_done(
    short: bool,
    tiny_llama_directory: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out"
    text = tmp_path / "short.txt" if short else None
    if text is not None:
        text.write_text("some words of a short text, " * 25)
    command = prune_command(tiny_llama_directory, out, "--remove", "2", "--then", "compensate", text=text)
    with Interruption(monkeypatch):
        assert run(command) == INTERRUPTED
    before = {file.name: file.read_bytes() for file in out.iterdir()}
    manifest = tmp_path / "out.run" / "manifest.json"
    assert json.loads(manifest.read_text())["status"] == "running"
    capsys.readouterr()
    assert run(prune_command(tiny_llama_directory, out, "--remove", "1")) == BAD_INPUT  # another request
    assert "not an empty directory" in capsys.readouterr().err
    assert run(command) == DONE
    assert "was finished by an earlier start" in capsys.readouterr().err
    assert {file.name: file.read_bytes() for file in out.iterdir()} == before
    written = json.loads(manifest.read_text())
    assert written["status"] == "done"
    assert written["result"] == json.loads((tmp_path / "out.run" / "result.json").read_text())
    assert (tmp_path / "out.run" / "report.html").is_file()
    assert not list((tmp_path / "out.run").glob("steps/*/result"))
    assert run(command) == BAD_INPUT  # all is done
    (tmp_path / "out.run" / "report.html").unlink()
    assert run(command) == DONE  # killed between manifest and report
    assert (tmp_path / "out.run" / "report.html").is_file()


def test_a_cut_of_several_that_was_complete_is_not_made_again(
    tiny_llama_directory: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    command = prune_command(tiny_llama_directory, tmp_path / "out", "--remove", "1,2")
    with Interruption(monkeypatch):
        assert run(command) == INTERRUPTED
    made = (tmp_path / "out" / "remove-1" / "model.safetensors").stat().st_mtime_ns
    capsys.readouterr()
    assert run(command) == DONE
    assert "cutting to remove-1" not in capsys.readouterr().err
    assert (tmp_path / "out" / "remove-1" / "model.safetensors").stat().st_mtime_ns == made
    assert (tmp_path / "out" / "remove-2" / "model.safetensors").is_file()


def test_a_damaged_result_of_a_cut_is_told(
    tiny_llama_directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = prune_command(tiny_llama_directory, tmp_path / "out", "--remove", "1,2")
    assert run(command) == DONE
    result = tmp_path / "out.run" / "results" / "remove-1.json"
    result.write_text(result.read_text()[:200])
    capsys.readouterr()
    assert run(command) == BAD_INPUT
    assert "remove-1.json is damaged" in capsys.readouterr().err
