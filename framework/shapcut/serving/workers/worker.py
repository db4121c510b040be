"""Ask an engine about one model: ``python worker.py PARENT ENGINE.py REQUEST.json ANSWER.json``.

The engine's exception is the answer too: ``{"refusal": "TypeName: message"}``.
"""

import ctypes
import json
import os
import resource
import signal
import sys
from importlib.util import module_from_spec, spec_from_file_location
from typing import Any

_PR_SET_PDEATHSIG = 1
_LONGEST_MESSAGE = 2_000


def _end_with(parent: int) -> None:
    """Let the kernel end this process when the one that started it ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit("the process that started this one has ended")


def _peak_memory_bytes() -> int:
    """The largest memory of this process, or of one that it started and waited for."""
    unit = 1 if sys.platform == "darwin" else 1024
    of_children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    return unit * max(_own_peak(), of_children)


def _own_peak() -> int:
    """Linux counts the process that started this one as well, except in its status, in KiB."""
    try:
        with open("/proc/self/status", encoding="utf-8") as file:  # noqa: PTH123 - paths are text here
            return next(int(line.split()[1]) for line in file if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _answer(engine: str, request: dict[str, Any]) -> dict[str, Any]:
    try:
        answer: dict[str, Any] = _imported(engine).answer(request)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever an engine raises is its answer
        return {"refusal": f"{type(error).__name__}: {_message(error)}"[:_LONGEST_MESSAGE]}
    return {"peak_memory_bytes": _peak_memory_bytes(), **answer}


def _imported(file: str) -> Any:
    """A Python file as a module, by the name of the file."""
    name = os.path.basename(file).rpartition(".")[0]  # noqa: PTH119 - paths are text here
    spec = spec_from_file_location(name, file)
    assert spec is not None  # noqa: S101 - the file ends in .py
    assert spec.loader is not None  # noqa: S101
    module = module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def _message(error: BaseException) -> str:
    """All lines as one: the first of an error of pydantic only counts the others."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(line for line in lines if not line.startswith("For further information"))


def main(parent: str, engine: str, request_file: str, answer_file: str) -> None:
    """Answer one request."""
    _end_with(int(parent))
    here = os.path.dirname(os.path.abspath(__file__))  # noqa: PTH100, PTH120 - paths are text here
    sys.path = [place for place in sys.path if place not in {"", here}]  # only the engine's packages
    with open(request_file, encoding="utf-8") as file:  # noqa: PTH123 - as the other one
        request = json.load(file)
    answer = _answer(engine, request)
    with open(answer_file, "w", encoding="utf-8") as file:  # noqa: PTH123 - paths are text here
        json.dump(answer, file)
    sys.stdout.flush()
    os._exit(0)  # engines leave threads and processes behind that would hold this one


if __name__ == "__main__":
    main(*sys.argv[1:])
