"""Processes forked from the one that tests, which has imported the libraries: a start costs no imports."""

import logging
import os
import runpy
import signal
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from subprocess import CompletedProcess
from typing import NoReturn, Self

from shapcut.game.coalitions import CoalitionMatrix
from shapcut.host.hookspecs import hookimpl


class Fork:
    """A fork that calls a function and ends; its stdin and stdout are pipes.

    An exception ends it with a traceback and status 1, as it ends the interpreter.

    Args:
        work: the function.
        environment: variables that are set in the fork.
    """

    def __init__(self, work: Callable[[], object], environment: Mapping[str, str] | None = None) -> None:
        self._err = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the rest
        ours, theirs = os.pipe(), os.pipe()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of forks of processes with threads
            self.pid = os.fork()
        if self.pid == 0:
            ends = (theirs[0], ours[1], self._err.fileno())
            _call_and_end(work, ends, {"TOKENIZERS_PARALLELISM": "false", **(environment or {})})
        os.close(ours[1])
        os.close(theirs[0])
        self.stdout = os.fdopen(ours[0], encoding="utf-8")
        self.stdin = os.fdopen(theirs[1], "w", encoding="utf-8")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.stdin.close()
        self.stdout.close()
        self._err.close()

    def ended(self) -> CompletedProcess[str]:
        """Wait for its end: status (minus the number of a signal), the rest of stdout, and stderr."""
        out = self.stdout.read()
        status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        self._err.seek(0)
        return CompletedProcess([], status, out, self._err.read().decode())


def forked(work: Callable[[], object], **environment: str) -> CompletedProcess[str]:
    """Call a function in a fork and wait for its end."""
    with Fork(work, environment) as fork:
        return fork.ended()


class Killer:
    """Kills the process after a number of evaluations."""

    def __init__(self, evaluations: int) -> None:
        self.left = evaluations

    @hookimpl
    def shapcut_coalitions_evaluated(self, coalitions: CoalitionMatrix) -> None:
        self.left -= len(coalitions)
        if self.left <= 0:
            os.kill(os.getpid(), signal.SIGKILL)


def script(path: Path, *arguments: object) -> Callable[[], object]:
    """What ``python path arguments`` does."""

    def work() -> None:
        sys.argv = [str(path), *map(str, arguments)]
        sys.path.insert(0, str(path.parent))
        runpy.run_path(str(path), run_name="__main__")

    return work


def _call_and_end(
    work: Callable[[], object], ends: tuple[int, int, int], environment: Mapping[str, str]
) -> NoReturn:
    """Call with other ends as stdin, stdout and stderr, and with the warnings of a new interpreter."""
    status = 1
    try:
        for number, end in enumerate(ends):
            os.dup2(end, number)
        sys.stdin = os.fdopen(0)
        sys.stdout = os.fdopen(1, "w")
        sys.stderr = os.fdopen(2, "w", buffering=1)
        os.environ.update(environment)
        logging.getLogger("shapcut").handlers.clear()
        warnings.resetwarnings()
        for category in (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning):
            warnings.simplefilter("ignore", category)
        status = _status(work)
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(status)


def _status(work: Callable[[], object]) -> int:
    try:
        work()
    except SystemExit as end:
        if isinstance(end.code, str):
            sys.stderr.write(f"{end.code}\n")
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:  # noqa: BLE001 - as the interpreter ends
        traceback.print_exc()
        return 1
    return 0
