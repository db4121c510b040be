"""Python modules run in processes of their own, which end with this one and are known to be alive.

A child's process starts as ``python -m shapcut.support.child PARENT MODULE ARGUMENT ...``.
"""

import ctypes
import fcntl
import os
import runpy
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

from shapcut.support.errors import ShapcutError

CHILD_LOCK = ".child.lock"
"""A file in the child's directory, locked as long as the child lives."""

_PR_SET_PDEATHSIG = 1


def run_child(
    module: str,
    arguments: Sequence[str],
    directory: Path,
    *,
    output: IO[bytes],
    environment: Mapping[str, str] | None = None,
) -> int:
    """Run a module in another process and wait for it.

    On Linux the kernel ends the child when this process ends, in whatever way. Elsewhere it may live on; it
    holds the lock of its directory, so that nothing else works there meanwhile.

    Args:
        module: its name; it is run as ``__main__``.
        arguments: of its command line.
        directory: where it works; its current directory.
        output: receives what it prints.
        environment: its variables; None for those of this process.

    Returns:
        Its exit status.

    Raises:
        ShapcutError: if a child of an earlier start still works in the directory.
    """
    lock = os.open(directory / CHILD_LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        if not _locked(lock):
            raise ShapcutError(
                f"a process of an earlier start still works in {directory}; wait for it, or end it"
            )
        command = [sys.executable, "-m", __name__, str(os.getpid()), module, *arguments]
        done = subprocess.run(
            command,
            cwd=directory,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            pass_fds=[lock],  # the lock is the open file's, so the child holds it too
            check=False,
        )
        return done.returncode
    finally:
        os.close(lock)


def has_child(directory: Path) -> bool:
    """Whether a child works in a directory."""
    try:
        lock = os.open(directory / CHILD_LOCK, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return not _locked(lock)
    finally:
        os.close(lock)


def _locked(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _end_with(parent: int) -> None:
    """Let the kernel end this process when its parent ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit("the process that started this one has ended")


def _main(parent: str, module: str, *arguments: str) -> None:
    _end_with(int(parent))
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    _main(*sys.argv[1:])
