"""How commands speak and end: signals, streams, colours, help, completion."""

import json
import logging
import os
import shutil
import signal
import sqlite3
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import pytest
from forks import Fork, forked, script

from shapcut import __version__
from shapcut.cli.exits import HUNG_UP, INTERRUPTED, TERMINATED, Termination
from shapcut.cli.main import main, run
from shapcut.host.host import Host, build_host
from shapcut.support.run_directory import open_run

SCRIPT = Path(__file__).with_name("stopped_command.py")
SIZES = ["--samples", "2", "--sequence-length", "16", "--held-out-samples", "2", "--finalist-samples", "0"]
ESCAPE = "\x1b"


@pytest.fixture(autouse=True)
def loggers_as_before() -> Iterator[None]:
    logger = logging.getLogger("shapcut")
    level, handlers, propagate = logger.level, list(logger.handlers), logger.propagate
    yield
    logger.setLevel(level)
    logger.handlers, logger.propagate = handlers, propagate


def stopped_at(moment: str, number: int, arguments: Sequence[str]) -> tuple[int, str, str]:
    """Status, stdout and stderr of a command that gets a signal when it says that the moment has come."""
    with Fork(script(SCRIPT, moment, *arguments)) as process:
        first = process.stdout.readline()
        if first.strip() == moment:
            os.kill(process.pid, number)
        done = process.ended()
    assert first.strip() == moment, done.stderr
    return done.returncode, done.stdout, done.stderr


def stored(run_directory: Path) -> int:
    with sqlite3.connect(run_directory / "evaluations.sqlite") as store:
        query = "SELECT COUNT(*) FROM evaluations WHERE game = 'calibration'"
        return int(store.execute(query).fetchone()[0])


@pytest.mark.parametrize(
    ("moment", "command", "number", "status", "word"),
    [
        ("scoring", "score", signal.SIGINT, INTERRUPTED, "interrupted"),
        ("pruned", "prune", signal.SIGTERM, TERMINATED, "terminated"),
        ("scoring", "score", signal.SIGHUP, HUNG_UP, "hung up"),
    ],
)
def test_a_signal_ends_a_command_cleanly_and_it_goes_on(
    *,
    tmp_path: Path,
    tiny_llama_directory: Path,
    capsys: pytest.CaptureFixture[str],
    moment: str,
    command: str,
    number: int,
    status: int,
    word: str,
) -> None:
    kept, out = tmp_path / "kept", tmp_path / "out"
    arguments = [command, str(tiny_llama_directory), "--run", str(kept), "--budget", "30", "--json", *SIZES]
    if command == "prune":
        arguments += ["--out", str(out), "--remove", "2"]
    ended, stdout, err = stopped_at(moment, number, arguments)
    assert (ended, stdout) == (status, "")
    last = err.splitlines()[-1]
    assert last.startswith(f"shapcut: {word}; what was measured is kept in {kept}")
    assert "Traceback" not in err
    assert ESCAPE not in err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["kept"]
    before = stored(kept)
    assert 0 < before <= 30
    assert run(arguments) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)
    assert f"{before} evaluations found from an earlier start" in captured.err
    if command == "prune":
        assert stored(kept) == before
        assert (out / "config.json").is_file()


def test_a_second_start_counts_what_is_known_of_a_part_of_the_text(
    tmp_path: Path, tiny_llama_directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["score", str(tiny_llama_directory), "--run", str(tmp_path / "kept"), "--remove", "2", *SIZES]
    arguments += ["--samples", "8", "--budget", "12"]
    assert run(arguments) == 0
    assert "found" not in capsys.readouterr().err
    with sqlite3.connect(tmp_path / "kept" / "evaluations.sqlite") as store:
        ((length,),) = store.execute("SELECT SUM(LENGTH(means)) FROM windows WHERE game = 'calibration'")
    assert run(arguments) == 0
    known = f"{stored(tmp_path / 'kept')} evaluations found from an earlier start, and {length // 8} windows"
    assert known in capsys.readouterr().err


def test_without_a_run_there_is_nothing_to_go_on_from(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("shapcut.host.open_model.locate", stop)
    assert run(["inspect", "anything"]) == INTERRUPTED
    assert capsys.readouterr().err == "shapcut: interrupted before there was anything to keep\n"


def test_sigterm_is_handled_only_while_a_command_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.getsignal(signal.SIGTERM)
    seen: list[object] = []

    def look(**options: bool) -> Host:
        seen.append(signal.getsignal(signal.SIGTERM))
        return build_host(**options)

    monkeypatch.setattr("shapcut.cli.app.build_host", look)
    assert run(["adapters", "--json"]) == 0
    assert seen not in ([], [before])
    assert signal.getsignal(signal.SIGTERM) is before


def test_an_interrupted_run_says_where_it_is_and_lets_go_of_its_lock(tmp_path: Path) -> None:
    with pytest.raises(Termination) as stop, open_run(tmp_path / "run"):
        raise Termination
    assert stop.value.__notes__ == [f"what was measured is kept in {tmp_path / 'run'}"]
    with open_run(tmp_path / "run"):
        pass


def test_stdout_has_the_result_and_stderr_the_rest(
    tmp_path: Path, tiny_llama_directory: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    arguments = ["score", str(tiny_llama_directory), "--run", str(tmp_path / "run"), "--budget", "20", *SIZES]
    assert run([*arguments, "--json"]) == 0
    out, err = capfd.readouterr()
    assert json.loads(out)
    assert err
    assert ESCAPE not in err
    assert run([*arguments, "--json", "--log-level", "warning"]) == 0
    assert capfd.readouterr().err == ""
    assert run([*arguments, "--json", "--log-level", "debug"]) == 0
    assert "DEBUG shapcut.pipeline.score: estimate took" in capfd.readouterr().err


def speak_ascii(model: Path, place: Path) -> None:
    """Run commands on a terminal of that encoding; their status goes to stdout too."""
    sys.stdout.reconfigure(encoding="ascii")
    sys.stderr.reconfigure(encoding="ascii", errors="backslashreplace")
    sizes = ["--samples", "2", "--sequence-length", "16"]
    brief = ["--held-out-samples", "2", "--sequence-length", "16"]
    for command in (
        ["prune", "--help"],
        ["inspect", str(model)],
        ["score", str(model), "--run", str(place), "--budget", "20", *sizes],
        ["evaluate", str(model), "--against", str(model), *brief],
        ["report", str(place)],
        ["inspect", "no/äöü"],
    ):
        try:
            main(command)
        except SystemExit as end:
            sys.stdout.write(f"status {end.code}\n")


def test_a_terminal_that_knows_ascii_alone(tmp_path: Path, tiny_llama_directory: Path) -> None:
    model = tmp_path / "größe"
    shutil.copytree(tiny_llama_directory, model)
    done = forked(partial(speak_ascii, model, tmp_path / "lauf-äöü"), PYTHONIOENCODING="ascii", LANG="C")
    lines = done.stdout.splitlines()  # click writes UTF-8 where it is told ASCII
    assert [line for line in lines if line.startswith("status")] == ["status 0"] * 5 + ["status 2"]
    assert "Traceback" not in done.stderr
    assert "did not foresee" not in done.stderr


@pytest.mark.parametrize("place", ["before", "after"])
def test_an_unknown_log_level_is_refused(place: str, capsys: pytest.CaptureFixture[str]) -> None:
    level = ["--log-level", "loud"]
    assert run([*level, "adapters"] if place == "before" else ["adapters", *level]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("shapcut: --log-level loud: ")


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--version"]) == 0
    assert capsys.readouterr().out == f"shapcut {__version__}\n"


@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_is_grouped_and_says_the_defaults(
    flag: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    assert run(["prune", flag]) == 0
    text = capsys.readouterr().out
    assert text.startswith("Usage: shapcut prune [OPTIONS] [MODEL]\n")
    for panel in ("Target", "Method", "Text", "Machine", "Files and output"):
        assert f"\n{panel}:\n" in text
    assert "one on a part of the text counts as that part [default: 500]" in " ".join(text.split())
    assert "--then STEP[:key=value,...]" in text
    assert "<" not in text
    assert run([flag]) == 0
    assert "\nJudge:\n" in capsys.readouterr().out


def completed(words: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What bash is told for the last word of a command line."""
    monkeypatch.setattr(sys, "argv", ["shapcut"])
    monkeypatch.setenv("_SHAPCUT_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_WORDS", words)
    monkeypatch.setenv("COMP_CWORD", str(len(words.split(" ")) - 1))
    with pytest.raises(SystemExit):
        run()
    return capsys.readouterr().out.split()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("shapcut pru", ["plain,prune"]),
        ("shapcut prune --estimator perm", ["plain,permutation"]),
        ("shapcut evaluate demo:", ["plain,demo:smollm2-135m"]),
        ("shapcut compare --methods greedy,tayl", ["plain,greedy,taylor"]),
        ("shapcut score --log-level w", ["plain,warning"]),
        ("shapcut prune --dtype fl", ["plain,float16", "plain,float32"]),
        ("shapcut evaluate models/sm", ["file,models/sm"]),
        ("shapcut prune --then gp", ["plain,gptq"]),
    ],
)
def test_completion(
    words: str, expected: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert completed(words, capsys, monkeypatch) == expected
