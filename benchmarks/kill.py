"""Runs that are killed at random moments and started again: what is lost, repeated or different in the end.

    python benchmarks/kill.py                                     writes benchmarks/results/kill.json
    python benchmarks/kill.py --runs 2 --kills 2 --moments operations --model DIR --result FILE
    python benchmarks/kill.py --runs 1 --kinds 'full recipe' --moments phases --model DIR --result FILE

Half of the runs are a plain ``prune``, half a whole recipe: score, prune, compensate, heal, quantize. Each
is killed with SIGKILL at random moments until it has been killed ``--kills`` times or ends before the next
one; then it is left to end. After each kill the output directory must be absent or complete; in the end every
evaluation that was reported done must be in the store, none may have been made twice, and plan and weights
must be those of an undisturbed run. A process is forked for each start, so that kills hit the work and not
the import of libraries. Moments are of the clock, or of a process's operations on files and databases, which
do not depend on the machine's speed; or one after each phase: evaluations, plan, cut, every step, all.
"""

import argparse
import collections
import hashlib
import importlib
import json
import os
import platform
import random
import shlex
import signal
import sqlite3
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any, NamedTuple

import torch
import transformers

from shapcut.data.text import builtin_text
from shapcut.game.coalitions import CoalitionMatrix, keys
from shapcut.host.hookspecs import hookimpl
from shapcut.host.host import build_host
from shapcut.measurement import measure
from shapcut.pipeline.prune import prune
from shapcut.recipe.recipe import make_recipe
from shapcut.support.errors import ShapcutError
from shapcut.support.files import write_json_atomically

HERE = Path(__file__).parent
SIZES = {
    "remove": 2,
    "budget": 50,
    "samples": 2,
    "sequence_length": 24,
    "finalist_samples": 4,
    "held_out_samples": 2,
    "compile": "off",
}
CHARACTERS = 20_000
"""Of the built-in text, which calibrates."""

SEEDS = 5
"""So many undisturbed runs of each kind are what the others are compared with."""
KINDS: dict[str, dict[str, Any]] = {
    "prune": {},
    "full recipe": {
        "then": ("compensate", "heal:steps=4,batch=2,rank=4,checkpoint_every=2", "torchao:kind=int8")
    },
}


PHASES = ("evaluations", "plan", "cut", "compensate", "heal", "torchao", "all")
"""After which a run is killed, in turn, if that is asked for."""


class Witness:
    """Writes down every coalition that is reported as measured, as a user's plugin might.

    Kills its process after ``fatal``, one of `PHASES`.
    """

    def __init__(self, log: Path, fatal: object) -> None:
        self.log = log
        self.fatal = fatal

    def passed(self, phase: str) -> None:
        """A phase is over."""
        if phase == self.fatal:
            os.kill(os.getpid(), signal.SIGKILL)

    @hookimpl
    def shapcut_coalitions_evaluated(self, coalitions: CoalitionMatrix) -> None:
        """Called after each commit of the store."""
        with self.log.open("a") as file:
            file.write("".join(f"{key.hex()}\n" for key in keys(coalitions)))
        self.passed("evaluations")

    @hookimpl
    def shapcut_plan_ready(self) -> None:
        """Called when the plan is written."""
        self.passed("plan")

    @hookimpl
    def shapcut_model_pruned(self) -> None:
        """Called after the cut."""
        self.passed("cut")

    @hookimpl
    def shapcut_step_finished(self, name: str) -> None:
        """Called when a step's result is kept."""
        self.passed(name.partition(":")[0])

    @hookimpl
    def shapcut_run_finished(self) -> None:
        """Called at the end."""
        self.passed("all")


class Operations:
    """Counts what a process does to files and databases; kills it before operation number ``fatal``."""

    def __init__(self, fatal: object) -> None:
        self.fatal = fatal
        self.count = 0

    def __call__(self, event: str, _arguments: tuple[Any, ...]) -> None:
        """Called before each of the interpreter's audited operations."""
        if event == "open" or event.startswith(("os.", "shutil.", "sqlite3.", "tempfile.")):
            self.count += 1
            if self.count == self.fatal:
                os.kill(os.getpid(), signal.SIGKILL)


def start(model: str, kind: str, seed: int, out: Path, fatal: int | str | None = None) -> int:
    """Fork a process that prunes; its id.

    It ends with status 0 and the count of its operations in a file, with 1 and a traceback in a file, or is
    killed before operation number ``fatal`` or after the phase of that name.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    if child := os.fork():
        return child
    operations = Operations(fatal)
    sys.addaudithook(operations)
    try:
        recipe = make_recipe(
            {"model": model, "seed": seed, "calibration": "text.txt", **SIZES, **KINDS[kind]}
        )
        prune(recipe, out, build_host(extra=[Witness(out.with_name("reported"), fatal)]))
    except BaseException:  # noqa: BLE001 - a forked process must not go on into its parent's code
        out.with_name("traceback").write_text(traceback.format_exc())
        os._exit(1)
    out.with_name("operations").write_text(str(operations.count))
    os._exit(0)


def ended(process: int, within: float | None = None) -> bool:
    """Wait for a process; whether it ended by itself, with status 0, before it was killed.

    Args:
        process: its id.
        within: seconds until it is killed; None waits for it.

    Raises:
        ShapcutError: if it failed.
    """
    if within is not None:
        time.sleep(within)
        os.kill(process, signal.SIGKILL)
    status = os.waitpid(process, 0)[1]
    if os.WIFEXITED(status) and os.WEXITSTATUS(status):
        raise ShapcutError(f"a start ended with status {os.WEXITSTATUS(status)}")
    return os.WIFEXITED(status)


def digests(out: Path) -> dict[str, str]:
    """SHA-256 of every file that must not depend on kills: the README has latencies in it."""
    return {
        str(file.relative_to(out)): hashlib.sha256(content_of(file)).hexdigest()
        for file in sorted(out.rglob("*"))
        if file.is_file() and file.name != "README.md"
    }


def content_of(file: Path) -> bytes:
    """A file's bytes; of safetensors with a sorted header, whose metadata come in an order of chance."""
    content = file.read_bytes()
    if file.suffix != ".safetensors":
        return content
    end = 8 + int.from_bytes(content[:8], "little")
    return json.dumps(json.loads(content[8:end]), sort_keys=True).encode() + content[end:]


def reported(log: Path) -> collections.Counter[str]:
    """How often each coalition was reported; a last line that a kill cut short does not count."""
    return collections.Counter(log.read_text().split("\n")[:-1]) if log.exists() else collections.Counter()


def faults_of_store(run: Path, log: Path) -> dict[str, int]:
    """Evaluations lost and repeated, by the store, by the witness and by the manifest."""
    connection = sqlite3.connect(run / "evaluations.sqlite")
    stored = collections.Counter(
        coalition.hex() for (coalition,) in connection.execute("SELECT coalition FROM evaluations")
    )
    made = connection.execute("SELECT SUM(evaluations) FROM durations").fetchone()[0]
    connection.close()
    seen = reported(log)
    phase = list(json.loads((run / "manifest.json").read_text())["phases"].values())[-1]
    told, kept = phase["evaluations_of_all_starts"], phase["evaluations_stored"]
    return {
        "reported_but_not_stored": sum((seen - stored).values()),
        "measured_again": made - sum(stored.values()),
        "measured_again_by_manifest": sum(told[name] - kept[name] for name in kept),
    }


class Undisturbed(NamedTuple):
    """What a run leaves that nobody kills, and how long it takes."""

    files: dict[str, str]
    seconds: float
    operations: int


def undisturbed(model: str, kind: str, seed: int, work: Path) -> Undisturbed:
    """A run that nobody kills."""
    begin, out = time.monotonic(), work / "out"
    ended(start(model, kind, seed, out))
    seconds = time.monotonic() - begin
    return Undisturbed(digests(out), seconds, int(out.with_name("operations").read_text()))


def is_done(out: Path) -> bool:
    """Whether a run has nothing left to do."""
    manifest = out.with_name("out.run") / "manifest.json"
    told = manifest.exists() and json.loads(manifest.read_text())["status"] == "done"
    return told and (manifest.with_name("report.html")).exists()


def check_run(
    reference: Undisturbed,
    model: str,
    kind: str,
    seed: int,
    *,
    rng: random.Random,
    moments: str,
    most: int,
    out: Path,
) -> dict[str, Any]:
    """One run, killed and resumed until it is done, beside what an undisturbed one left."""

    def killed() -> bool:
        if moments == "clock":
            return not ended(start(model, kind, seed, out), rng.uniform(0.0, reference.seconds))
        fatal = PHASES[kills] if moments == "phases" else rng.randint(1, reference.operations)
        return not ended(start(model, kind, seed, out, fatal))

    wanted = reference.files
    kills, half_written = 0, 0
    while kills < most and not is_done(out) and killed():
        kills += 1
        half_written += out.exists() and digests(out) != wanted
    if not is_done(out):
        ended(start(model, kind, seed, out))
    found = digests(out)
    return {
        "kind": kind,
        "seed": seed,
        "kills": kills,
        "half_written_outputs": half_written,
        **faults_of_store(out.with_name("out.run"), out.with_name("reported")),
        "files_that_differ": sum(found.get(name) != digest for name, digest in wanted.items())
        + len(found.keys() - wanted.keys()),
        "done": int(is_done(out)),
        "left_behind": sum(path.name.startswith(".out.partial") for path in out.parent.iterdir()),
        "weights_of_steps_left": len(list(out.with_name("out.run").glob("steps/*/result"))),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", default=str(HERE / "zoo" / "models" / "llama"))
    parser.add_argument("--kinds", nargs="+", choices=list(KINDS), default=list(KINDS))
    parser.add_argument("--runs", type=int, default=50)
    parser.add_argument("--kills", type=int, default=4, help="most kills a run")
    parser.add_argument("--moments", choices=["clock", "operations", "phases"], default="clock")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--result", type=Path, default=HERE / "results" / "kill.json")
    given = parser.parse_args()
    given.kills = len(PHASES) if given.moments == "phases" else given.kills
    torch.set_num_threads(1)
    for module in ("peft", "torchao"):  # before the forks, which then start at once
        if "full recipe" in given.kinds:
            importlib.import_module(module)
    rng, rows, begin = random.Random(given.seed), [], time.monotonic()  # noqa: S311 - no secret
    references: dict[tuple[str, int], Undisturbed] = {}
    given.model, given.result = str(Path(given.model).absolute()), given.result.absolute()
    place = tempfile.TemporaryDirectory()
    os.chdir(place.name)
    Path("text.txt").write_text(builtin_text()[:CHARACTERS], encoding="utf-8")
    full = measure.latency
    measure.latency = lambda *which, **options: full(
        *which, **options | {"prompt_tokens": 4, "new_tokens": 2, "repeats": 1}
    )
    for number in range(given.runs):
        kind, seed = given.kinds[number % len(given.kinds)], number // len(given.kinds) % SEEDS
        with tempfile.TemporaryDirectory(dir=place.name) as work:
            try:
                if (kind, seed) not in references:
                    references[kind, seed] = undisturbed(given.model, kind, seed, Path(work, "first"))
                reference, out = references[kind, seed], Path(work, "killed", "out")
                killed = {"rng": rng, "moments": given.moments, "most": given.kills}
                rows.append(check_run(reference, given.model, kind, seed, **killed, out=out))
            except ShapcutError as error:
                report = next(Path(work).rglob("traceback")).read_text()
                sys.exit(f"run {number} ({kind}): {error}\n{report}")
        print(rows[-1], flush=True)
        write_json_atomically(given.result, summary(rows, given, time.monotonic() - begin))


def summary(rows: list[dict[str, Any]], given: argparse.Namespace, seconds: float) -> dict[str, Any]:
    """What the runs came to."""
    faults = [name for name in rows[0] if name not in {"kind", "seed", "kills", "done"}]
    model = Path(given.model)
    return {
        "command": shlex.join(Path(word).name for word in sys.argv),
        "model": str(model.relative_to(HERE.parent)) if model.is_relative_to(HERE.parent) else model.name,
        "recipe": SIZES,
        "steps": KINDS["full recipe"]["then"],
        "moments": given.moments,
        "seed": given.seed,
        "runs": len(rows),
        "runs_by_kind": dict(collections.Counter(row["kind"] for row in rows)),
        "runs_that_ended_done": sum(row["done"] for row in rows),
        "kills": sum(row["kills"] for row in rows),
        "faults": {name: sum(row[name] for row in rows) for name in faults},
        "seconds": round(seconds),
        "hardware": f"{platform.machine()}, {os.cpu_count()} processors, 1 thread a process",
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
        "rows": rows,
    }


if __name__ == "__main__":
    main()
