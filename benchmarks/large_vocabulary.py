"""`prune` on a model with a large vocabulary by two checkouts, in turns: seconds to the plan and in all.

    python benchmarks/large_vocabulary.py gemma3-270m.Q4_K_M.gguf --before CHECKOUT

Four blocks go, with 150 coalitions and all other options as they are; ``now, one text`` judges the result on
the calibration's text alone, as the earlier checkout does. Each command is a process of its own. The plan is
chosen when the command begins to measure the original. A command that fails later, as an earlier checkout may
when it writes, counts to its failure.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from growth import hardware
from shapcut.support.files import write_json_atomically

ROOT = Path(__file__).parents[1]
RESULT = ROOT / "benchmarks" / "results" / "large_vocabulary.json"
REMOVE, BUDGET = 4, 150
CHOSEN = "measuring the original"
WAYS: dict[str, Sequence[str]] = {"before": (), "now": (), "now, one text": ("--judge-on", "none")}
CALL = "from shapcut.cli import main; main()"


def run(model: Path, way: str, checkout: Path, place: Path) -> dict[str, Any]:
    """One command: its seconds, what it removes, and the perplexities that it finds."""
    paths = os.pathsep.join(str(checkout / name) for name in ("framework", "adapters", "plugins"))
    command = ["prune", str(model), "--out", str(place), "--remove", str(REMOVE), "--budget", str(BUDGET)]
    begin = time.monotonic()
    chosen = None
    with subprocess.Popen(
        [sys.executable, "-c", CALL, *command, *WAYS[way]],
        env={**os.environ, "PYTHONPATH": paths},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            print(f"{way}: {line.rstrip()}", file=sys.stderr, flush=True)
            if chosen is None and CHOSEN in line:
                chosen = time.monotonic() - begin
    whole, kept = time.monotonic() - begin, place.with_name(f"{place.name}.run")
    plan = json.loads((kept / "plan.json").read_text())
    found = {"way": way, "plan": chosen, "whole": whole, "status": process.returncode}
    result = kept / "result.json"
    figures = json.loads(result.read_text()) if result.exists() else {}
    judged = {name: figures[name]["perplexity"]["perplexity"] for name in ("dense", "pruned") if figures}
    return {**found, "removed": plan["removed"], "perplexity": judged}


def main() -> None:
    """Run the ways in turns and write the result."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("--before", type=Path, required=True, help="the earlier checkout")
    parser.add_argument("--turns", nargs="+", default=["now", "before", "now, one text", "now"])
    parser.add_argument("--out", type=Path, default=RESULT)
    given = parser.parse_args()
    rows = []
    for way in given.turns:
        checkout = given.before if way == "before" else ROOT
        with tempfile.TemporaryDirectory() as directory:
            rows.append(run(given.model.absolute(), way, checkout.absolute(), Path(directory) / "out"))
        print(rows[-1], file=sys.stderr, flush=True)
    content = {
        "command": f"python benchmarks/large_vocabulary.py {given.model.name} --before CHECKOUT",
        "hardware": hardware().replace("1 thread", f"{torch.get_num_threads()} threads"),
        "torch": torch.__version__,
        "model": given.model.name,
        "remove": REMOVE,
        "budget": BUDGET,
        "rows": rows,
    }
    write_json_atomically(given.out, content)


if __name__ == "__main__":
    main()
