"""Engines in processes of their own, which end with this one."""

import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import IO

from pydantic import ValidationError

from shapcut.serving.answer import Answer, Refusal, Request
from shapcut.serving.engine import WORKERS, Engine
from shapcut.support.errors import InputError, ShapcutError
from shapcut.support.plain_json import read_json

_LARGEST_ANSWER = 2**26
_KEPT_OUTPUT = 2**16
_CHUNK = 2**12
_FINDING_SECONDS, _CLOSING_SECONDS = 120.0, 5.0

READER = "output of an engine"
"""Name of the thread that reads what an engine prints."""

_ABSENT = 3
_FIND = f"""import importlib.util, sys
sys.path = [place for place in sys.path if place]  # not a folder that happens to lie here
sys.exit(0 if importlib.util.find_spec(sys.argv[1]) else {_ABSENT})"""


class Interpreter:
    """A Python that may have an engine.

    Args:
        python: its path or name; None for this process's own.
        environment: variables for its processes.
    """

    def __init__(self, python: str | None = None, environment: dict[str, str] | None = None) -> None:
        self._own = python is None
        self.python = python or sys.executable
        self._more = environment or {}

    def require(self, name: str, engine: Engine) -> None:
        """Check that an engine can be found, without importing it.

        Raises:
            InputError: with how to get it.
        """
        try:
            done = subprocess.run(
                [self.python, "-c", _FIND, engine.package],
                env=self._environment(engine),
                capture_output=True,
                timeout=_FINDING_SECONDS,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise InputError(f"--python {self.python} cannot be run: {error}") from error
        if done.returncode == _ABSENT:
            raise InputError(
                f"{self.python} has no {engine.package}, which the engine {name} needs: "
                f"{engine.installation}, and name its Python with --python"
            )
        if done.returncode:
            raise InputError(f"--python {self.python} is no Python 3: it ends with status {done.returncode}")

    def ask(self, engine: Engine, request: Request, timeout: float) -> Answer | Refusal:
        """Run an engine on a model.

        Raises:
            ShapcutError: if it does not answer in time, or not as agreed.
        """
        with tempfile.TemporaryDirectory(prefix="shapcut-serve-") as directory:
            asked, answered = Path(directory) / "request.json", Path(directory) / "answer.json"
            asked.write_text(request.model_dump_json(), encoding="utf-8")
            command = [self.python, str(WORKERS / "worker.py"), str(os.getpid())]
            status, last = run_bounded(
                [*command, str(engine.script), str(asked), str(answered)],
                self._environment(engine),
                timeout,
                f"the engine has not answered within {timeout:g} s on {request.model}; raise --timeout",
            )
            if not answered.is_file():
                return Refusal(refusal=f"its process ended with status {status}: {last}")
            return _checked(answered, engine)

    def _environment(self, engine: Engine) -> dict[str, str]:
        """Variables of the process; another Python's packages are not this one's."""
        mine = {name: value for name, value in os.environ.items() if self._own or name != "PYTHONPATH"}
        return {**mine, **engine.environment, **self._more}


def _checked(file: Path, engine: Engine) -> Answer | Refusal:
    try:
        content = read_json(file, largest=_LARGEST_ANSWER)
        kind = Refusal if isinstance(content, dict) and "refusal" in content else Answer
        return kind.model_validate(content)
    except (ValidationError, ValueError) as error:
        first = str(error).splitlines()
        raise ShapcutError(f"{engine.script.name} gives no valid answer: {' '.join(first[:3])}") from error


def run_bounded(
    command: list[str], environment: dict[str, str], timeout: float, late: str
) -> tuple[int, str]:
    """Run a command, and end it with all that it started when it is late or this process is interrupted.

    Args:
        command: the program and its arguments.
        environment: its variables.
        timeout: seconds.
        late: the message if it is late.

    Returns:
        Its exit status, and the last line that it printed.

    Raises:
        ShapcutError: if it cannot be started, or is late.
    """
    try:
        process = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # a group of its own, to be ended as one
        )
    except OSError as error:
        raise ShapcutError(f"{command[0]} cannot be run: {error.strerror}") from error
    kept: deque[bytes] = deque(maxlen=_KEPT_OUTPUT // _CHUNK)
    reader = threading.Thread(target=_drain, args=(process.stdout, kept), name=READER, daemon=True)
    try:  # from here on an interruption at any place ends the process
        reader.start()
        status = process.wait(timeout)
    except subprocess.TimeoutExpired as error:
        raise ShapcutError(late) from error
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if reader.ident is not None:
            reader.join(_CLOSING_SECONDS)
    return status, _last_line(b"".join(kept))


def _drain(output: IO[bytes], kept: deque[bytes]) -> None:
    with output:
        while chunk := os.read(output.fileno(), _CHUNK):
            kept.append(chunk)


def _last_line(output: bytes) -> str:
    lines = [line.strip() for line in output.decode("utf-8", "replace").split("\n")]
    return next((line for line in reversed(lines) if line), "it printed nothing")
