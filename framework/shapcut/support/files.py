"""Write files and directories atomically."""

import glob
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from shapcut.support.errors import InputError


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def cache_directory() -> Path:
    """The cache folder: SHAPCUT_CACHE, else XDG_CACHE_HOME/shapcut, else ~/.cache/shapcut."""
    if chosen := os.environ.get("SHAPCUT_CACHE"):
        return Path(chosen)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "shapcut"


def write_text_atomically(path: Path, text: str) -> None:
    """Replace the file at ``path`` by ``text`` (UTF-8): readers see the old file or the new one."""
    with tempfile.NamedTemporaryFile(
        "w", encoding="utf-8", dir=path.parent, prefix=f".{path.name}.", delete=False
    ) as file:
        temporary = Path(file.name)
        try:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    temporary.chmod(0o644)
    temporary.replace(path)
    _flush(path.parent)


def write_json_atomically(path: Path, content: Any) -> None:
    """As `write_text_atomically`, of indented JSON; NaN and infinity are refused."""
    write_text_atomically(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


def file_digests(directory: Path) -> dict[str, str]:
    """SHA-256 of every file below a directory, by its path there."""
    digests = {}
    for path in sorted(directory.rglob("*")):
        if path.is_file():
            with path.open("rb") as file:
                digests[path.relative_to(directory).as_posix()] = hashlib.file_digest(
                    file, "sha256"
                ).hexdigest()
    return digests


def copy_tree(source: Path, target: Path) -> None:
    """Copy the files below ``source`` into ``target``, by hard links where supported."""
    shutil.copytree(source, target, copy_function=_link_or_copy, dirs_exist_ok=True)


def _link_or_copy(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def _nearest(path: Path) -> Path:
    """The nearest directory above an absolute path, or the path itself, that exists."""
    while not path.exists():
        path = path.parent
    return path


def require_regular(path: Path) -> None:
    """Refuse a device, a FIFO or a socket, which may never end.

    Raises:
        InputError: otherwise; a missing file is left to its reader.
    """
    if path.exists() and not path.is_file() and not path.is_dir():
        raise InputError(f"{path} is a device, a FIFO or a socket; name a regular file")


def require_writable(path: Path, option: str) -> None:
    """Check that ``path`` is a writable directory or can become one.

    Args:
        path: the directory.
        option: the command-line option that named it, for the message.

    Raises:
        InputError: otherwise.
    """
    _require_usable_name(path, option)
    nearest = _nearest(path.absolute())
    try:
        with tempfile.TemporaryFile(dir=nearest):  # permission bits do not tell for every user
            pass
    except OSError as error:
        raise InputError(f"{option} {path} cannot be written: {nearest}: {error.strerror}") from error


def require_new_directory(path: Path) -> None:
    """Check that ``path`` can become a new directory.

    Raises:
        InputError: if it exists and is not an empty directory, or its parent cannot be written.
    """
    _require_usable_name(path, "--out")
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise InputError(f"--out {path} already exists and is not an empty directory; choose another one")
    require_writable(path.absolute().parent, "--out")


def require_new_file(path: Path, option: str = "--out") -> None:
    """Check that ``path`` can become a new file.

    Raises:
        InputError: if it exists, or its directory cannot be written.
    """
    _require_usable_name(path, option)
    if path.exists() or path.is_symlink():
        raise InputError(f"{option} {path} already exists; choose another one")
    require_writable(path.absolute().parent, option)


def _require_usable_name(path: Path, option: str) -> None:
    """Check that the names of ``path`` and of the temporary directory beside it can be made.

    Raises:
        InputError: if they are too long for the file system, or not UTF-8, in which reports are written.
    """
    try:
        path.name.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InputError(f"{option} {path.name!a}: the name is not UTF-8; choose another one") from error
    longest = f".{path.name}.partial-{2**22}"
    if len(os.fsencode(longest)) > os.pathconf(_nearest(path.absolute().parent), "PC_NAME_MAX"):
        raise InputError(
            f"{option} {path}: the name is too long for a directory beside it while it is written; "
            "choose a shorter one"
        )


def require_outside(run: Path, out: Path) -> None:
    """Check that a run directory is not inside its output directory.

    Raises:
        InputError: if it is.
    """
    if run.resolve().is_relative_to(out.resolve()):
        raise InputError(f"--run {run} is inside --out {out}, which must stay empty; choose another one")


def _temporary_beside(path: Path, is_kind: Callable[[Path], bool]) -> Path:
    """A name for what becomes ``path``, beside it; what killed processes left there is cleared first."""
    path = path.absolute()
    path.parent.mkdir(parents=True, exist_ok=True)
    prefix = f".{path.name}.partial-"
    for leftover in path.parent.glob(f"{glob.escape(prefix)}*"):
        owner = leftover.name.removeprefix(prefix)
        ours = re.fullmatch(r"[1-9][0-9]{0,18}", owner) and is_kind(leftover) and not leftover.is_symlink()
        if ours and not psutil.pid_exists(int(owner)):
            _discard(leftover)
    return path.parent / f"{prefix}{os.getpid()}"


def _discard(path: Path) -> None:
    """Delete a file or a directory as far as possible."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """A name beside ``path`` for a file that becomes ``path`` when the block ends without an error.

    Leftovers of killed processes are cleared first, as by `new_directory`.

    Raises:
        FileExistsError: if ``path`` exists by then.
    """
    temporary = _temporary_beside(path, Path.is_file)
    _discard(temporary)
    try:
        yield temporary
        temporary.chmod(0o644)
        _flush(temporary)
        _become_new(temporary, path)
    except BaseException:
        _discard(temporary)
        raise
    _flush(path.absolute().parent)


def _become_new(temporary: Path, path: Path) -> None:
    if path.exists():
        raise FileExistsError(f"{path} already exists")
    temporary.replace(path)


@contextmanager
def new_directory(path: Path) -> Iterator[Path]:
    """A temporary directory beside ``path`` that becomes ``path`` when the block ends without an error.

    Leftovers of killed processes are cleared first; those of running ones are left alone.
    """
    temporary = _temporary_beside(path, Path.is_dir)
    path = path.absolute()
    _discard(temporary)
    temporary.mkdir()
    try:
        yield temporary
        for file in sorted(temporary.rglob("*")):
            if file.is_file():
                file.chmod(0o644)  # some libraries write weights that only their owner may read
            _flush(file)
        if path.exists():
            path.rmdir()
        temporary.replace(path)
    except BaseException:
        _discard(temporary)
        raise
    _flush(path.parent)
