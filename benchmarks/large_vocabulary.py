"""`prune` on a model with a large vocabulary by two checkouts, in turns: seconds to the plan and in all.

    python benchmarks/large_vocabulary.py gemma3-270m.Q4_K_M.gguf --before CHECKOUT
    python benchmarks/large_vocabulary.py gemma3-270m.Q4_K_M.gguf --before CHECKOUT --dtype bfloat16
    python benchmarks/large_vocabulary.py gemma3-270m.Q4_K_M.gguf --before CHECKOUT --instructions avx2

Four blocks go, with 150 coalitions and all other options as they are. By default, a command now compensates
the cut and judges it on a second text; ``the same work`` does neither. Each command is a process of its own.
The plan is chosen when the command begins to measure the original. The weights of a GGUF file are written
as a checkpoint first, since an earlier checkout may not be able to write what it cuts from one; Gemma is
published in bfloat16. With ``--instructions avx2`` the kernels of PyTorch, oneDNN and MKL use no others, and
the search is in float32, as on a processor that has no others. Compensation asks the processor itself for
bfloat16, which would then be emulated, so that only the same work can be timed there.
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
from shapcut.models.loading import load
from shapcut.models.source import ModelSource
from shapcut.support.files import write_json_atomically

ROOT = Path(__file__).parents[1]
RESULT = ROOT / "benchmarks" / "results" / "large_vocabulary.json"
REMOVE, BUDGET = 4, 150
CHOSEN = "measuring the original"
SAME_WORK = ("--no-mend", "--judge-on", "none")
WAYS: dict[str, Sequence[str]] = {"before": (), "now": (), "now, the same work": SAME_WORK}
AVX2 = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"}
CALL = "from shapcut.cli import main; main()"


def checkpoint(model: Path, directory: Path, dtype: str) -> Path:
    """The weights of a GGUF file, or of a checkpoint, as a checkpoint in another format."""
    loaded = load(ModelSource.find(str(model), dtype=dtype))
    loaded.model.save_pretrained(directory)
    loaded.tokenizer.save_pretrained(directory)
    return directory


def run(model: Path, way: str, checkout: Path, place: Path, instructions: str) -> dict[str, Any]:
    """One command: its seconds, what it removes, and the perplexities that it finds."""
    paths = os.pathsep.join(str(checkout / name) for name in ("framework", "adapters", "plugins"))
    command = ["prune", str(model), "--out", str(place), "--remove", str(REMOVE), "--budget", str(BUDGET)]
    command += ["--dtype", "float32"] if instructions == "avx2" else []
    begin = time.monotonic()
    chosen = None
    with subprocess.Popen(
        [sys.executable, "-c", CALL, *command, *WAYS[way]],
        env={**os.environ, **(AVX2 if instructions == "avx2" else {}), "PYTHONPATH": paths},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            print(f"{way}: {time.monotonic() - begin:.1f} {line.rstrip()}", file=sys.stderr, flush=True)
            if chosen is None and CHOSEN in line:
                chosen = time.monotonic() - begin
    whole, kept = time.monotonic() - begin, place.with_name(f"{place.name}.run")
    if process.returncode:
        raise RuntimeError(f"{way}: exit status {process.returncode}")
    figures = json.loads((kept / "result.json").read_text())
    return {
        "way": way,
        "plan": chosen,
        "whole": whole,
        "removed": json.loads((kept / "plan.json").read_text())["removed"],
        "perplexity": {name: figures[name]["perplexity"]["perplexity"] for name in ("dense", "pruned")},
    }


def main() -> None:
    """Run the ways in turns and write the result."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("--before", type=Path, required=True, help="the earlier checkout")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--instructions", choices=("all", "avx2"), default="all")
    parser.add_argument(
        "--turns",
        nargs="+",
        choices=WAYS,
        default=["now, the same work", "before", "now, the same work"],
    )
    parser.add_argument("--out", type=Path, default=RESULT)
    given = parser.parse_args()
    if given.instructions == "avx2" and "now" in given.turns:
        parser.error("--instructions avx2: compensation would emulate bfloat16; leave 'now' out of --turns")
    rows = []
    with tempfile.TemporaryDirectory() as whole:
        model = checkpoint(given.model.absolute(), Path(whole) / "model", given.dtype)
        for way in given.turns:
            checkout = (given.before if way == "before" else ROOT).absolute()
            with tempfile.TemporaryDirectory() as directory:
                rows.append(run(model, way, checkout, Path(directory) / "out", given.instructions))
            print(rows[-1], file=sys.stderr, flush=True)
    content = json.loads(given.out.read_text(encoding="utf-8")) if given.out.exists() else {"cases": []}
    options = [
        f"--{name} {value}"
        for name in ("dtype", "instructions")
        if (value := getattr(given, name)) != parser.get_default(name)
    ]
    command = ["python benchmarks/large_vocabulary.py", given.model.name, "--before CHECKOUT", *options]
    case = {
        "command": " ".join(command),
        "hardware": hardware().replace("1 thread", f"{torch.get_num_threads()} threads"),
        "torch": torch.__version__,
        "model": given.model.name,
        "dtype": given.dtype,
        "instructions": given.instructions,
        "remove": REMOVE,
        "budget": BUDGET,
        "rows": rows,
    }
    content["cases"] = [other for other in content["cases"] if other["command"] != case["command"]] + [case]
    write_json_atomically(given.out, content)


if __name__ == "__main__":
    main()
