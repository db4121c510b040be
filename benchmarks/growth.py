"""How fit, search and report grow with the number of coalitions and of players, on a game with a formula.

    python benchmarks/growth.py                       # some minutes
    python benchmarks/growth.py --before DIRECTORY    # this part: in turns with the code in another checkout

Each size has a process of its own with one thread. Seconds are processor seconds, so that other jobs hardly
count; memory is the peak of the process.
"""

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import scipy

from shapcut.estimators.quadratic import QuadraticSurrogate
from shapcut.estimators.sampling import GuidedSampler
from shapcut.game.budget import BudgetedGame
from shapcut.game.coalitions import CoalitionMatrix, Values
from shapcut.game.contributions import Contributions, Fidelity
from shapcut.game.game import FunctionGame
from shapcut.game.plan import RemovalPlan
from shapcut.selection.base import SelectionProblem
from shapcut.selection.search import SearchSelector
from shapcut.support.files import write_json_atomically
from shapcut.support.run_directory import Run
from shapcut_plugins.report.report import write_report

RESULT = Path(__file__).parent / "results" / "growth.json"
BY_COALITIONS = ((250, 32), (500, 32), (1_000, 32), (4_000, 32), (16_000, 32), (100_000, 32))
BY_PLAYERS = ((1_000, 16), (1_000, 32), (1_000, 64), (1_000, 128), (1_000, 256), (1_000, 500))
LARGEST = ((2_000, 500),)
BEFORE = ((250, 32), (500, 32), (1_000, 32))
STEPS = ("sample", "fit", "round", "report")
SEED = 0
INSTRUCTIONS = ("amx_bf16", "avx512_bf16", "avx512f", "avx2", "avx", "asimd")


class Recorder:
    """A game of degree two with a little more, which notes when it is asked."""

    def __init__(self, players: int) -> None:
        rng = np.random.default_rng(SEED)
        self.damage = rng.gamma(1.0, 0.1, players)
        pairs = np.triu(rng.normal(0.0, 0.04 / players**0.5, (players, players)), 1)
        self.pairs = pairs + pairs.T
        self.asked: list[float] = []

    def value(self, coalitions: CoalitionMatrix) -> Values:
        """The value of each row."""
        self.asked.append(time.process_time())
        absent = (~coalitions).astype(np.float64)
        linear = absent @ self.damage
        values: Values = (
            0.003 * np.sin(1e3 * linear) - linear - 0.5 * ((absent @ self.pairs) * absent).sum(axis=1)
        )
        return values


def write_run(directory: Path, contributions: Contributions, removed: tuple[int, ...]) -> Run:
    """The files of a run that a report reads."""
    run, players = Run(directory), len(contributions.values)
    manifest: dict[str, Any] = {
        "format_version": 1,
        "status": "done",
        "started": "",
        "command": "",
        "model": {"source": "a formula", "class": "none", "adapter": "none", "players": players},
        "text": {"source": "", "calibration": [0, 0], "held_out": [0, 0], "adds_bos": False},
    }
    manifest |= {name: {} for name in ("recipe", "fingerprint", "versions", "machine", "phases")}
    write_json_atomically(run.manifest, manifest)
    write_json_atomically(run.contributions, contributions.to_json())
    RemovalPlan.removing(removed, players).write(run.plan)
    return run


def measure(coalitions: int, players: int) -> dict[str, Any]:
    """Processor seconds of each step at one size, and the peak of memory in MiB."""
    recorder, rng, n_remove = Recorder(players), np.random.default_rng(SEED), max(2, players // 5)
    game, marks = FunctionGame(players, recorder.value), [time.process_time()]
    rows = GuidedSampler(recorder.damage, n_remove + 1).sample(game.players, coalitions, rng)
    marks.append(time.process_time())
    known = game.values(rows)
    begin = time.process_time()
    surrogate = QuadraticSurrogate().fit(rows, known)
    fitted = time.process_time() - begin
    means, errors = surrogate.shapley()
    contributions = Contributions(
        values=means,
        standard_errors=errors,
        weighting="",
        estimator="surrogate",
        full_value=0.0,
        coalitions=rows,
        measured=known,
        fidelity=Fidelity.of(surrogate.predict(rows), known, rows),
        interactions=surrogate.coefficients()[1],
        surrogate=surrogate,
    )
    budget = 3 * max(8, len(rows) // 64)
    recorder.asked.clear()
    problem = SelectionProblem(
        contributions, game.players, n_remove, game=BudgetedGame(game, budget), budget=budget, rng=rng
    )
    plan = SearchSelector(patience=2).select(problem)
    begin = time.process_time()
    with tempfile.TemporaryDirectory() as directory:
        write_report(write_run(Path(directory), contributions, plan.removed))
    took = (marks[1] - marks[0], fitted, recorder.asked[1] - recorder.asked[0], time.process_time() - begin)
    return {
        "coalitions": len(rows),
        "players": players,
        **{name: round(seconds, 4) for name, seconds in zip(STEPS, took, strict=True)},
        "peak MiB": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }


def in_process(coalitions: int, players: int, root: Path) -> dict[str, Any]:
    """`measure` in a process of its own, with the code of a checkout."""
    places = os.pathsep.join(str(root / name) for name in ("framework", "adapters", "plugins"))
    found = subprocess.run(
        [sys.executable, __file__, "--size", str(coalitions), str(players)],
        env={**os.environ, "PYTHONPATH": places, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        check=True,
    )
    row: dict[str, Any] = json.loads(found.stdout)
    print(f"{root.name}: {row}", file=sys.stderr)
    return row


def slopes(rows: list[dict[str, Any]], by: str) -> dict[str, float]:
    """The slope of each step's seconds over the size, both as logarithms."""
    sizes = np.log([row[by] for row in rows])
    return {
        step: round(float(np.polyfit(sizes, np.log([max(row[step], 1e-4) for row in rows]), 1)[0]), 2)
        for step in (*STEPS, "peak MiB")
    }


def compared(before: Path, turns: int) -> list[dict[str, Any]]:
    """The code of another checkout and this one, in turns; medians, and their ratio."""
    rows, here = [], Path(__file__).parents[1]
    for size in BEFORE:
        both = [(in_process(*size, before), in_process(*size, here)) for _ in range(turns)]
        row: dict[str, Any] = {"coalitions": size[0], "players": size[1]}
        for step in STEPS:
            old, new = (float(np.median([pair[which][step] for pair in both])) for which in (0, 1))
            row[step] = {"before": old, "after": new, "times faster": round(old / max(new, 1e-4), 2)}
        rows.append(row)
    return rows


def hardware() -> str:
    """The machine, with the widest vector instructions that it has."""
    cpuinfo = Path("/proc/cpuinfo")
    flags = cpuinfo.read_text(encoding="ascii", errors="ignore").split() if cpuinfo.exists() else []
    widest = next((name for name in INSTRUCTIONS if name in flags), "unknown")
    return f"1 thread, {platform.machine()}, {widest}"


def main() -> None:
    """Measure all sizes and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--before", type=Path, help="another checkout, for the ratio of seconds")
    parser.add_argument("--turns", type=int, default=3, help="measurements of each checkout")
    parser.add_argument("--size", type=int, nargs=2, help="measure this many coalitions and players only")
    given = parser.parse_args()
    if given.size:
        print(json.dumps(measure(*given.size)))
        return
    here = Path(__file__).parents[1]
    content: dict[str, Any] = json.loads(RESULT.read_text(encoding="utf-8")) if RESULT.exists() else {}
    content |= {
        "command": "python benchmarks/growth.py",
        "numpy": np.__version__,
        "scipy": scipy.__version__,
        "seed": SEED,
    }
    if given.before:
        content["before"] = compared(given.before, given.turns)
        content["before_hardware"] = hardware()
    else:
        coalitions, players, largest = (
            [in_process(*size, here) for size in sizes] for sizes in (BY_COALITIONS, BY_PLAYERS, LARGEST)
        )
        content["by coalitions"] = {"rows": coalitions, "slopes": slopes(coalitions, "coalitions")}
        content["by players"] = {"rows": players, "slopes": slopes(players, "players")}
        content["largest"] = largest
        content["hardware"] = hardware()
    RESULT.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
