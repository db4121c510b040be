"""Damaged files, full and read-only disks, two processes, clocks that jump: a line each, and nothing lost."""

import itertools
import json
import os
import random
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch

from shapcut.cli.exits import BAD_INPUT, DONE, FAILED, UNFORESEEN
from shapcut.cli.main import run
from shapcut.game.coalitions import keys
from shapcut.game.plan import RemovalPlan
from shapcut.game.store import EvaluationStore
from shapcut.models.loading import load
from shapcut.models.source import ModelSource
from shapcut.support.errors import InputError

FLIPS = 150
SIZES = ["--samples", "2", "--sequence-length", "16", "--budget", "24", "--finalist-samples", "0"]
SIZES += ["--held-out-samples", "2", "--compile", "off"]


def flipped(content: bytes, count: int, seed: int) -> Iterator[bytes]:
    """Copies of a content in each of which one bit is another."""
    rng = random.Random(seed)  # noqa: S311 - no secret
    for _ in range(count):
        changed = bytearray(content)
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
        yield bytes(changed)


def cut(content: bytes, count: int) -> Iterator[bytes]:
    """Beginnings of a content."""
    for part in range(count):
        yield content[: len(content) * part // count]


def line_of(capsys: pytest.CaptureFixture[str]) -> str:
    """The one line of complaint; news of a run that has begun may stand before it."""
    *_, last = capsys.readouterr().err.splitlines()
    assert last.startswith("shapcut: "), last
    assert UNFORESEEN not in last
    return last


def evaluations(place: Path) -> tuple[int, int]:
    """How many are stored, and how many have ever been made."""
    with closing(sqlite3.connect(place / "evaluations.sqlite")) as connection:
        stored = connection.execute("SELECT COUNT(*) FROM evaluations").fetchone()[0]
        made = connection.execute("SELECT SUM(evaluations) FROM durations").fetchone()[0]
    return stored, made or 0


def test_a_damaged_store_never_gives_another_value(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    coalitions = np.unique(rng.random((60, 12)) < 0.6, axis=0)
    values = dict(zip(keys(coalitions), rng.normal(size=len(coalitions)).tolist(), strict=True))
    path = tmp_path / "evaluations.sqlite"
    with closing(EvaluationStore(path)) as store:
        store.open_game("g", {"model": "m"})
        store.add("g", coalitions, np.array(list(values.values())), 1.0)
    content, refused, noticed = path.read_bytes(), 0, 0
    for changed in itertools.chain(flipped(content, FLIPS, 0), cut(content, 40)):
        for leftover in tmp_path.iterdir():
            leftover.unlink()
        path.write_bytes(changed)
        try:
            with closing(EvaluationStore(path)) as store:
                store.open_game("g", {"model": "m"})
                found = store.lookup("g", coalitions)
                noticed += store.damaged > 0
        except InputError:
            refused += 1
            continue
        for key, numbers in found.items():
            assert numbers[0] == values[key]
    assert refused > 10
    assert noticed > 2


def test_damaged_evaluations_are_measured_again_and_told(
    tiny_llama_directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = tmp_path / "run"
    command = ["score", str(tiny_llama_directory), "--run", str(place), *SIZES]
    assert run(command) == DONE
    before = (place / "contributions.json").read_text()
    with closing(sqlite3.connect(place / "evaluations.sqlite")) as connection, connection:
        connection.execute(
            "UPDATE evaluations SET value = value - 5 WHERE coalition = "
            "(SELECT MIN(coalition) FROM evaluations)"
        )
    capsys.readouterr()
    assert run(command) == DONE
    assert "1 evaluations in" in capsys.readouterr().err
    assert (place / "contributions.json").read_text() == before


def test_a_damaged_plan_never_removes_others(tmp_path: Path) -> None:
    plan, path = RemovalPlan.removing([2, 5, 7], 12, model_fingerprint="ab" * 32), tmp_path / "plan.json"
    plan.write(path)
    content = path.read_bytes()
    for changed in itertools.chain(flipped(content, 4 * FLIPS, 1), cut(content, 40)):
        path.write_bytes(changed)
        try:
            found = RemovalPlan.read(path)
        except InputError:
            continue
        assert (found.removed, found.kept) == (plan.removed, plan.kept)


@pytest.mark.parametrize(
    "name", ["model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json"]
)
def test_a_damaged_checkpoint_is_refused_or_finite(
    name: str, tiny_llama_directory: Path, tmp_path: Path
) -> None:
    directory = tmp_path / "model"
    shutil.copytree(tiny_llama_directory, directory)
    content = (directory / name).read_bytes()
    head = content[:3000]
    changes = itertools.chain(
        (changed + content[3000:] for changed in flipped(head, 12, 2)),
        flipped(content, 6, 3),
        cut(content, 4),
    )
    for changed in changes:
        (directory / name).write_bytes(changed)
        try:
            loaded = load(ModelSource.find(str(directory)))
        except InputError:
            continue
        assert all(torch.isfinite(weight).all() for weight in loaded.model.parameters())


def test_damaged_files_of_a_run_are_written_again(
    tiny_llama_directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = tmp_path / "run"
    command = ["score", str(tiny_llama_directory), "--run", str(place), *SIZES]
    assert run(command) == DONE
    for name in ("manifest.json", "contributions.json"):
        content = (place / name).read_bytes()
        for changed in itertools.chain(flipped(content, 40, 4), cut(content, 10)):
            (place / name).write_bytes(changed)
            capsys.readouterr()
            status = run(["report", str(place)])
            assert status in {DONE, BAD_INPUT}
            if status == BAD_INPUT:
                assert name in line_of(capsys)
        (place / name).write_bytes(content)
    for name in ("manifest.json", "contributions.json"):
        (place / name).write_bytes((place / name).read_bytes()[:100])
    stored, made = evaluations(place)
    assert run(command) == DONE
    assert evaluations(place) == (stored, made)
    assert run(["report", str(place)]) == DONE


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """Mounts a disk of so many KiB, or changes it."""
    place = tmp_path / "disk"
    place.mkdir()

    def mount(*options: str, again: bool = False) -> Path:
        chosen = ",".join(["remount", *options] if again else options)
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", chosen, "tmpfs", str(place)],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            pytest.skip(f"no disk can be mounted here: {done.stderr.strip()}")
        return place

    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("only root can mount a small disk")
    yield mount
    subprocess.run(["umount", str(place)], check=False, capture_output=True)


@pytest.mark.parametrize("size", [16, 120, 300])
def test_a_full_disk_stops_with_a_line_and_what_is_stored_is_used_again(
    size: int,
    small_disk: Callable[..., Path],
    tiny_llama_directory: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    place = small_disk(f"size={size}k")
    command = ["prune", str(tiny_llama_directory), "--remove", "2", "--out", str(place / "out"), *SIZES]
    command += ["--then", "compensate"]
    assert run(command) in {FAILED, BAD_INPUT}
    line = line_of(capsys)
    assert any(word in line.lower() for word in ("space", "full", "disk", "write")), line
    assert not (place / "out").exists()
    small_disk("size=20m", again=True)
    assert run(command) == DONE
    stored, made = evaluations(place / "out.run")
    assert stored == made
    assert not [path for path in place.iterdir() if path.name.startswith(".out")]


@pytest.mark.parametrize("option", ["--out", "--run"])
def test_a_read_only_disk_is_refused_before_any_work(
    option: str,
    small_disk: Callable[..., Path],
    tiny_llama_directory: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    place = small_disk("size=1m")
    small_disk("ro", again=True)
    places = {"--out": tmp_path / "out", "--run": tmp_path / "run", option: place / "here"}
    words = [word for name, chosen in places.items() for word in (name, str(chosen))]
    assert run(["prune", str(tiny_llama_directory), "--remove", "2", *words, *SIZES]) == BAD_INPUT
    line = line_of(capsys)
    assert option in line
    assert "Read-only file system" in line


def test_two_processes_on_one_run(
    tiny_llama_directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = tmp_path / "run"
    script = (
        "import sys; from pathlib import Path; from shapcut.support.run_directory import open_run\n"
        "with open_run(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()\n"
    )
    command = ["score", str(tiny_llama_directory), "--run", str(place), *SIZES]
    with subprocess.Popen(
        [sys.executable, "-c", script, str(place)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        assert run(command) == BAD_INPUT
        assert f"--run {place} is in use by another process" in line_of(capsys)
        assert not (place / "evaluations.sqlite").exists()
        other.communicate()
    assert run(command) == DONE


@pytest.mark.parametrize("jump", [-86_400.0, 86_400.0])
def test_a_clock_that_jumps_changes_nothing(
    jump: float, tiny_llama_directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["score", str(tiny_llama_directory), *SIZES, "--run"]
    assert run([*command, str(tmp_path / "steady")]) == DONE
    for name in ("monotonic", "time", "perf_counter"):
        clock, calls = getattr(time, name), itertools.count()
        monkeypatch.setattr(
            time, name, lambda clock=clock, calls=calls: clock() + jump * (next(calls) % 7 > 3)
        )
    assert run([*command, str(tmp_path / "jumping")]) == DONE
    monkeypatch.undo()
    steady, jumping = (
        json.loads((tmp_path / name / "contributions.json").read_text()) for name in ("steady", "jumping")
    )
    assert steady == jumping
    assert evaluations(tmp_path / "jumping") == evaluations(tmp_path / "steady")
    assert run([*command, str(tmp_path / "jumping")]) == DONE  # what it stored can be used again
