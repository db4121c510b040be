"""Runs whose n-th operation on files fails, for every n, as SQLite tests itself.

    python benchmarks/faults.py                                        writes benchmarks/results/faults.json
    python benchmarks/faults.py --every 20 --model DIR --result FILE   every twentieth fault

Each fault is a run of its own, in a fork of a process that has imported and loaded everything: the n-th
opening for writing, rename, new directory, link, removal, change of mode or flush to disk fails; or the disk
is full from the n-th operation on, so that every later write fails, of whatever library; or memory runs out
in it. Each time the command must end with status 0 to 2 and at most one line, without a traceback; the user's
own files must be as they were; the output directory must be absent or complete. Then the same command is
started without faults, and must leave the files of an undisturbed run.
"""

import argparse
import collections
import copy
import errno
import hashlib
import json
import os
import platform
import resource
import shlex
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

import shapcut.cli.commands
import shapcut.pipeline.prune
from shapcut.cli.exits import UNFORESEEN
from shapcut.cli.main import run
from shapcut.data.text import builtin_text
from shapcut.host import open_model
from shapcut.host.host import build_host, select_adapter
from shapcut.measurement import measure
from shapcut.models.loading import LoadedModel, load
from shapcut.models.source import ModelSource
from shapcut.support.files import write_json_atomically

IMPORTED = (shapcut.cli.commands, shapcut.pipeline.prune)
"""Before the forks, which then start at once."""

HERE = Path(__file__).parent
OPTIONS = (
    "--remove 2 --budget 14 --samples 2 --sequence-length 16 --finalist-samples 0 --held-out-samples 2 "
    "--compile off --calibration text.txt --log-level warning --then compensate:samples=2"
)
CHARACTERS = 20_000
"""Of the built-in text, which calibrates."""

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
ERRORS = {
    "open": errno.ENOSPC,
    "os.rename": errno.EIO,
    "os.mkdir": errno.ENOSPC,
    "os.link": errno.EPERM,
    "os.remove": errno.EACCES,
    "os.rmdir": errno.EACCES,
    "os.chmod": errno.EPERM,
    "os.fsync": errno.EIO,
}
"""Operations that fail, by the names of the interpreter's audit events, and how."""

KINDS = (*ERRORS, "full disk", "memory")
UNTOUCHED = "precious.txt"


class Fault:
    """Counts a process's operations on files below a directory; the n-th of a kind fails."""

    def __init__(self, kind: str, number: int, place: Path) -> None:
        self.kind = kind
        self.number = number
        self.place = str(place)
        self.counts: collections.Counter[str] = collections.Counter()

    def install(self) -> None:
        """From now on and for good in this process."""
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        flush = os.fsync

        def fsync(file: int) -> None:
            self.happens("os.fsync")
            flush(file)

        os.fsync = fsync
        sys.addaudithook(self)

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Called before each of the interpreter's audited operations."""
        if event not in ERRORS or not isinstance(arguments[0], str | bytes | os.PathLike):
            return
        if event == "open" and not (arguments[2] or 0) & WRITING:
            return
        if os.path.abspath(os.fsdecode(arguments[0])).startswith(self.place):  # noqa: PTH100 - no lookups here
            self.happens(event)

    def happens(self, event: str) -> None:
        """Fail, if it is time."""
        self.counts.update([event, "full disk", "memory"])
        if event == self.kind or self.kind in {"full disk", "memory"}:
            if self.counts[self.kind] != self.number:
                return
            if self.kind == "full disk":
                resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
            elif self.kind == "memory":
                raise MemoryError
            else:
                raise OSError(ERRORS[event], os.strerror(ERRORS[event]))


class Ended(NamedTuple):
    """How a start ended: status, what it said, operations by kind."""

    status: int
    said: str
    counts: dict[str, int]


def start(model: str, place: Path, kind: str = "", number: int = 0) -> Ended:
    """Prune in a fork, with a fault."""
    reading, writing = os.pipe()
    if not (child := os.fork()):
        os.dup2(writing, 2)
        os.close(reading)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.chdir(place)
        fault = Fault(kind, number, place)
        fault.install()
        status = 99
        try:
            status = run(["prune", model, "--out", "out", *shlex.split(OPTIONS)])
        except BaseException:  # noqa: BLE001 - shown by the parent; this process must not go on into its code
            os.write(2, traceback.format_exc().encode())
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
            os.write(2, b"\0" + json.dumps(fault.counts).encode())
            os._exit(status)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        said, _, counts = pipe.read().decode().partition("\0")
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return Ended(status, said, json.loads(counts or "{}"))


def digests(out: Path) -> dict[str, str]:
    """SHA-256 of every file; of the README's lines only those without measured times."""
    return {
        str(file.relative_to(out)): hashlib.sha256(_content(file)).hexdigest()
        for file in sorted(out.rglob("*"))
        if file.is_file() and file.name != "README.md"
    }


def _content(file: Path) -> bytes:
    """A file's bytes; of safetensors with a sorted header, whose metadata come in an order of chance."""
    content = file.read_bytes()
    if file.suffix != ".safetensors":
        return content
    end = 8 + int.from_bytes(content[:8], "little")
    return json.dumps(json.loads(content[8:end]), sort_keys=True).encode() + content[end:]


def prepared(place: Path) -> Path:
    """A working directory with a text and a file of the user's."""
    place.mkdir(parents=True)
    (place / "text.txt").write_text(builtin_text()[:CHARACTERS], encoding="utf-8")
    (place / UNTOUCHED).write_text("years of work")
    return place


def complaints(ended: Ended) -> Iterator[str]:
    """What is wrong with how a start ended."""
    lines = [line for line in ended.said.split("\n") if line]
    if ended.status not in {0, 1, 2}:
        yield f"status {ended.status}"
    if ended.status and (len(lines) != 1 or not lines[0].startswith("shapcut: ")):
        yield f"{len(lines)} lines"
    if "Traceback" in ended.said or UNFORESEEN in ended.said:
        yield "unforeseen"


def check(model: str, kind: str, number: int, wanted: dict[str, str], place: Path) -> list[str]:
    """One fault: what went wrong; empty if all is well."""
    first = start(model, prepared(place), kind, number)
    wrong = list(complaints(first))
    if (place / "out").exists() and digests(place / "out") != wanted:
        wrong.append("half written")
    again = start(model, place)
    done = again.status == 2 and "already exists" in again.said and first.status in {0, 1}
    if again.status and not done:
        wrong.append(f"not resumed: {again.said.strip()[:300]}")
    elif digests(place / "out") != wanted:
        wrong.append("other files")
    if (place / UNTOUCHED).read_text() != "years of work":
        wrong.append("lost")
    left = {path.name for path in place.iterdir()} - {"out", "out.run", "text.txt", UNTOUCHED}
    wrong += [f"left behind: {name}" for name in sorted(left)]
    return [f"{kind} {number}: {each} | {first.said.strip()[:300]}" for each in wrong]


def preloaded(model: str) -> Callable[[ModelSource], LoadedModel]:
    """Loads a model from the memory that forks share."""
    loaded = load(ModelSource.find(model))
    return lambda _: LoadedModel(copy.deepcopy(loaded.model), loaded.tokenizer)


def prepare(model: str) -> None:
    """Import, load and measure before the forks, what is the same in all of them."""
    open_model.load = preloaded(model)
    loaded = open_model.load(ModelSource.find(model)).model
    host = build_host()
    for entry in (*host.estimators, *host.selectors, *host.utilities, *host.executors, *host.postprocessors):
        _ = entry.factory
    known = measure.latency(select_adapter(host, loaded), loaded, prompt_tokens=4, new_tokens=2, repeats=1)
    measure.latency = lambda *_, **__: known


def sweep(
    model: str, place: Path, kinds: Sequence[str], every: int, most: int | None
) -> Iterator[tuple[str, int, list[str]]]:
    """All faults of some kinds: for each kind its name, how many there were, and what went wrong.

    Args:
        model: a checkpoint's directory.
        place: an empty directory.
        kinds: of faults.
        every: stride over the operations of a kind; each kind starts at another one.
        most: of faults of one kind; None for all.
    """
    prepare(model)
    undisturbed = start(model, prepared(place / "undisturbed"))
    if undisturbed.status:
        yield "none", 1, [f"the undisturbed run: {undisturbed}"]
        return
    wanted = digests(place / "undisturbed" / "out")
    for offset, kind in enumerate(kinds):
        wrong: list[str] = []
        numbers = range(1 + offset % every, undisturbed.counts.get(kind, 0) + 1, every)[:most]
        for number in numbers:
            wrong += check(model, kind, number, wanted, place / "faulty")
            shutil.rmtree(place / "faulty")
        yield kind, len(numbers), wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", type=Path, default=HERE / "zoo" / "models" / "llama")
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--most", type=int)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--result", type=Path, default=HERE / "results" / "faults.json")
    given = parser.parse_args()
    torch.set_num_threads(1)
    begin = time.monotonic()
    tried, wrong = dict[str, int](), list[str]()
    with tempfile.TemporaryDirectory() as place:
        for kind, count, complaints_of_kind in sweep(
            str(given.model.absolute()), Path(place), given.kinds, given.every, given.most
        ):
            tried[kind] = count
            wrong += complaints_of_kind
            print(f"{kind}: {count} faults, {len(complaints_of_kind)} complaints", flush=True)
            write_json_atomically(given.result, summary(given, tried, wrong, time.monotonic() - begin))
    sys.exit(1 if wrong else 0)


def summary(
    given: argparse.Namespace, tried: dict[str, int], wrong: list[str], seconds: float
) -> dict[str, Any]:
    """What the faults came to."""
    model = given.model.absolute()
    return {
        "command": shlex.join(Path(word).name for word in sys.argv),
        "model": str(model.relative_to(HERE.parent)) if model.is_relative_to(HERE.parent) else model.name,
        "options": OPTIONS,
        "every": given.every,
        "faults": tried,
        "complaints": wrong,
        "seconds": round(seconds),
        "hardware": f"{platform.machine()}, {os.cpu_count()} processors, 1 thread a process",
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
    }


if __name__ == "__main__":
    main()
