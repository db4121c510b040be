"""How a command ends: its exit status, and errors as one line on stderr."""

import os
import sys
from collections.abc import Sequence

import typer

from shapcut.errors import InputError, ShapcutError

TRACEBACK = "SHAPCUT_TRACEBACK"
"""The environment variable that shows errors of shapcut itself as Python does."""

UNFORESEEN = "an error that shapcut did not foresee"

DONE, FAILED, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and leave the process with its exit status."""
    sys.exit(run(arguments))


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status: 0 done, 1 failed, 2 bad input, 130 interrupted."""
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    given = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    try:
        from shapcut.cli.app import build_app  # noqa: PLC0415 - seconds to import, and errors become lines

        return int(
            build_app(skip_broken="--skip-broken-plugins" in given)(given, standalone_mode=False) or DONE
        )
    except typer.Exit as ending:
        return ending.exit_code
    except BrokenPipeError:
        # Whoever read the output has gone; the interpreter's last flush must not complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except (KeyboardInterrupt, typer.Abort):
        message = "interrupted; the same command with the same --run goes on where it stopped"
        return _complain(message, INTERRUPTED)
    except (typer.TyperException, ShapcutError, OSError) as error:
        return _complain(*_explained(error))
    except Exception as error:
        if os.environ.get(TRACEBACK):
            raise
        what = f"{type(error).__name__}: {error}".strip(": ")
        return _complain(f"{UNFORESEEN}: {what}; {TRACEBACK}=1 shows where it came from", FAILED)


def _explained(error: typer.TyperException | ShapcutError | OSError) -> tuple[str, int]:
    """What to say of an error, and the exit status."""
    if isinstance(error, typer.TyperException):
        return error.format_message(), error.exit_code
    return str(error), BAD_INPUT if isinstance(error, InputError) else FAILED


def _complain(message: str, status: int) -> int:
    line = " ".join(message.split())
    print(f"shapcut: {line}", file=sys.stderr)  # noqa: T201 - the one place that reports failure
    return status
