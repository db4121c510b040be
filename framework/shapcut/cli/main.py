"""How a command ends: its exit status, and errors as one line on stderr."""

import gc
import io
import os
import signal
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

import click

from shapcut import __version__
from shapcut.cli.exits import (
    BAD_INPUT,
    DONE,
    FAILED,
    HUNG_UP,
    INTERRUPTED,
    TERMINATED,
    TRACEBACK,
    UNFORESEEN,
    Stopped,
    Termination,
)
from shapcut.support.errors import InputError, ShapcutError

_LONGEST_LINE = 2_000

_COLLECTED_AT = 10_000
"""New objects after which Python looks for garbage: importing torch and transformers creates a million."""

_OUT_OF_MEMORY = "out of memory: lower --batch-size, --samples or --sequence-length, or try --offload disk"

_ENDING: dict[int, tuple[str, int]] = {
    signal.SIGTERM: ("terminated", TERMINATED),
    signal.SIGHUP: ("hung up", HUNG_UP),
}
"""Signals that end a command, with what is said and the exit status."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and leave the process with its exit status.

    A terminal that cannot show a character is given its number instead.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")  # of its own functions
    gc.set_threshold(_COLLECTED_AT, *gc.get_threshold()[1:])
    sys.exit(run(arguments))


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status.

    Returns:
        0 done, 1 failed, 2 bad input, 129 hung up (SIGHUP), 130 interrupted (Ctrl-C),
        143 terminated (SIGTERM).
    """
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    given = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    try:
        with _termination_raises():
            return _execute(given)
    except BrokenPipeError:
        # Whoever read the output has gone; the interpreter's last flush must not complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except (Stopped, KeyboardInterrupt, click.Abort) as stop:
        return _complain(*_stopped(stop.stop if isinstance(stop, Stopped) else stop))
    except (click.ClickException, ShapcutError, OSError) as error:
        return _complain(*_explained(error))
    except Exception as error:
        if os.environ.get(TRACEBACK):
            raise
        return _complain(_unexpected(error), FAILED)


def _execute(given: list[str]) -> int:
    if given == ["--version"]:
        click.echo(f"shapcut {__version__}")  # answered without loading a plugin
        return DONE
    from shapcut.cli.app import build_app

    app = build_app(skip_broken="--skip-broken-plugins" in given)
    return int(app.main(given, prog_name="shapcut", standalone_mode=False) or DONE)


@contextmanager
def _termination_raises() -> Iterator[None]:
    """Let SIGTERM and SIGHUP raise `Termination` as Ctrl-C raises KeyboardInterrupt; only a main thread can.

    A hang-up that is ignored, as under nohup, stays ignored.
    """
    heeded = [number for number in _ENDING if signal.getsignal(number) is not signal.SIG_IGN]
    try:
        before = {number: signal.signal(number, _terminate) for number in heeded}
    except ValueError:
        yield
        return
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _terminate(number: int, frame: FrameType | None) -> NoReturn:
    del frame
    raise Termination(number)


def _stopped(stop: BaseException) -> tuple[str, int]:
    """What to say of a command that was told to stop, and the exit status; a run notes its place."""
    what, status = "interrupted", INTERRUPTED
    if isinstance(stop, Termination):
        what, status = _ENDING[stop.args[0] if stop.args else signal.SIGTERM]
    kept = next(iter(getattr(stop, "__notes__", ())), None)
    if kept is None:
        return f"{what} before there was anything to keep", status
    return f"{what}; {kept}, and the same command goes on from there", status


def _unexpected(error: Exception) -> str:
    """What to say of an error that is no refusal."""
    if isinstance(error, MemoryError) or "allocate memory" in str(error):
        return _OUT_OF_MEMORY
    what = f"{type(error).__name__}: {error}".strip(": ")
    return f"{UNFORESEEN}: {what}; {TRACEBACK}=1 shows where it came from"


def _explained(error: click.ClickException | ShapcutError | OSError) -> tuple[str, int]:
    """What to say of an error, and the exit status."""
    if isinstance(error, click.ClickException):
        return error.format_message(), error.exit_code
    return str(error), BAD_INPUT if isinstance(error, InputError) else FAILED


def printable(message: str) -> str:
    """A message as one line of bounded length that a terminal only shows: names in it may be hostile."""
    line = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in " ".join(message.split()))
    half = _LONGEST_LINE // 2
    return line if len(line) <= _LONGEST_LINE else f"{line[:half]} ... {line[-half:]}"


def _complain(message: str, status: int) -> int:
    line = printable(message)
    print(f"shapcut: {line}", file=sys.stderr)  # noqa: T201 - the one place that reports failure
    return status
