"""A place where an attack is built, and what must hold of every attack."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from shapcut.cli.exits import BAD_INPUT
from shapcut.cli.main import run

Refuse = Callable[..., str]

_LONGEST_LINE = 2_500
_LARGE = 2**30
"""Bytes of a file that is not read, but known by its size and time."""


@pytest.fixture
def model(tmp_path: Path, tiny_llama_directory: Path) -> Path:
    """A sound checkpoint that may be changed."""
    return Path(shutil.copytree(tiny_llama_directory, tmp_path / "model"))


def seen(directory: Path) -> dict[str, object]:
    """Everything below a directory: contents of files, targets of links, kinds of the rest."""
    return {str(path.relative_to(directory)): _state(path) for path in sorted(directory.rglob("*"))}


def _state(path: Path) -> object:
    if path.is_symlink():
        return path.readlink()
    known = path.stat()
    if not path.is_file():
        return known.st_mode
    return path.read_bytes() if known.st_size < _LARGE else (known.st_size, known.st_mtime_ns)


@pytest.fixture
def refuse(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Refuse:
    """Run a command that must be refused: status 2, one line of words, and no file is made or changed."""

    def refused(*arguments: object) -> str:
        before = seen(tmp_path)
        status = run([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        lines = err.split("\n")
        assert (status, len(lines), lines[-1], out) == (BAD_INPUT, 2, "", ""), err[:2000]
        assert lines[0].isprintable()
        assert len(lines[0]) < _LONGEST_LINE
        assert seen(tmp_path) == before
        return lines[0]

    return refused
