"""The whole command line on every model of the zoo, and on each as another library stores it.

    python benchmarks/zoo/prune.py               # all
    python benchmarks/zoo/prune.py rwkv7 mamba   # these again, the other rows stay

``inspect``, ``prune`` at 2, 4 and 6 of 12 blocks, and ``evaluate`` of what was written, each in a process of
its own. All with shapcut's built-in text; perplexities are of the part that no choice sees.
"""

import argparse
import json
import platform
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from architectures import ARCHITECTURES
from convert import CONVERTERS, convert
from corpus import model_directory

from shapcut.support.files import write_json_atomically

RESULT = Path(__file__).parent.parent / "results" / "zoo_prune.json"
REMOVED = (2, 4, 6)
BUDGET = 200
HELD_OUT = 200
"""Windows of 128 tokens; the text has some more."""

PACKAGES = {"rwkv": "rwkv (.pth)", "rwkv7": "rwkv (.pth)", "mamba": "mamba-ssm", "mamba2": "mamba-ssm"}
"""The library of a converted model, by the type that its config names."""


def shapcut(*arguments: object) -> Any:
    """Run a command and return its result.

    Raises:
        SystemExit: with what the command said, if it fails.
    """
    command = [sys.executable, "-m", "shapcut", *map(str, arguments), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{shlex.join(command)}: {done.stderr}")
    return json.loads(done.stdout)


def pruned(model: Path, directory: Path) -> dict[str, Any]:
    """One row: a model before and after each cut."""
    held_out = ("--held-out-samples", HELD_OUT)
    facts = shapcut("inspect", model)
    row: dict[str, Any] = {
        "adapter": facts["adapter"],
        "blocks": len(facts["players"]),
        "dense": perplexity(shapcut("evaluate", model, *held_out)),
        "cuts": {},
    }
    for count in REMOVED:
        out = directory / f"{model.stem}-{count}"
        made = shapcut(
            "prune", model, "--out", out, "--remove", count, "--budget", BUDGET, "--no-mend", *held_out
        )
        row["cuts"][count] = {
            "removed": made["plan"]["removed"],
            "perplexity": perplexity(made["pruned"]),
            "perplexity of what was written": perplexity(shapcut("evaluate", out, *held_out)),
        }
    return row


def perplexity(measured: Any) -> float:
    """The figure itself."""
    return float(measured["perplexity"]["perplexity"])


def rows(name: str) -> dict[str, Any]:
    """The rows of one architecture: the model itself, and as another library stores it."""
    source = model_directory(name)
    kind = json.loads((source / "config.json").read_text(encoding="utf-8"))["model_type"]
    with tempfile.TemporaryDirectory() as kept:
        directory = Path(kept)
        found = {name: pruned(source, directory)}
        if kind in CONVERTERS:
            converted = directory / "converted"
            convert(source, converted)
            found[f"{name}, {PACKAGES[kind]}"] = pruned(converted, directory)
    return found


def main() -> None:
    """Measure the models that the command line names and write the result after each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", choices=[*sorted(ARCHITECTURES), []])
    names = parser.parse_args().names or list(ARCHITECTURES)
    content = json.loads(RESULT.read_text(encoding="utf-8")) if RESULT.is_file() else {"models": {}}
    for name in names:
        print(name, flush=True)
        content["models"] |= rows(name)
        content |= {
            "command": "python benchmarks/zoo/prune.py",
            "budget": BUDGET,
            "text": f"built-in text of Python {platform.python_version()}",
            "torch": torch.__version__,
        }
        write_json_atomically(RESULT, content)


if __name__ == "__main__":
    main()
