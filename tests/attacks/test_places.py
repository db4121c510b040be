"""Directories that are not ours, named as a run or an output: refused, and nothing of them is touched."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from shapcut.support.run_directory import open_run


def project(place: Path) -> None:
    (place / "steps" / "my-notes").mkdir(parents=True)
    (place / "steps" / "my-notes" / "thesis.txt").write_text("years of work")
    (place / "recipe.yaml").write_text("# mine\nremove: 2\n")
    (place / "manifest.json").write_text('{"mine": true}')


def linked(name: str) -> Callable[[Path], None]:
    def make(place: Path) -> None:
        with open_run(place):
            pass
        victim = place.with_name("victim")
        (victim / "1-cast" / "result").mkdir(parents=True)
        (place / name).symlink_to(victim)

    return make


PLACES: dict[str, tuple[Callable[[Path], object], str]] = {
    "a project": (project, "is not a run directory"),
    "one file": (lambda place: (place.mkdir(), (place / ".DS_Store").touch()), "is not a run directory"),
    "a link to a directory": (linked("steps"), "is a link"),
    "a link to nothing": (linked("manifest.json"), "is a link"),
    "a marker that is a link": (
        lambda place: (place.mkdir(), (place / ".shapcut-run").symlink_to("/dev/null")),
        "is a link",
    ),
    "a FIFO": (os.mkfifo, "--run"),
    "a file": (lambda place: place.touch(), "--run"),
}


@pytest.mark.parametrize(("make", "words"), PLACES.values(), ids=PLACES)
@pytest.mark.parametrize("command", ["score", "prune", "compare"])
def test_a_run_directory(
    make: Callable[[Path], object], words: str, command: str, model: Path, tmp_path: Path, refuse: Any
) -> None:
    make(tmp_path / "place")
    options = {
        "score": [],
        "prune": ["--remove", "1", "--out", tmp_path / "out"],
        "compare": ["--methods", "last-n", "--remove", "1"],
    }[command]
    assert words in refuse(command, model, "--run", tmp_path / "place", *options)


@pytest.mark.parametrize("name", ["x" * 248, "ö" * 124, os.fsdecode(b"caf\xe9"), ""])
def test_a_name_that_cannot_be_made(name: str, model: Path, tmp_path: Path, refuse: Any) -> None:
    line = refuse("prune", model, "--remove", "1", "--out", f"{tmp_path}/out/{name}" if name else "/")
    assert "--out" in line
