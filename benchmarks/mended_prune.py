"""`shapcut prune` with and without compensation at equal time, and calibrated on one text or on two.

    python benchmarks/mended_prune.py --models llama smollm2-135m --judge-on wikitext2/valid.txt

Each cut is the command in a process of its own, with default options but for those of its row. The budget of
``plain, same time`` is larger by what compensation took with the same seed. All cuts are judged on windows of
the last quarters of the built-in and the general text and of the texts given; changes are against ``plain``
of the same seed, with 95 % t intervals over paired windows. Rows that the result file has already are not
measured again.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from after_the_cut import REAL
from mending import held_out_texts, machine, row
from shapcut.host.host import Host, build_host
from shapcut.host.open_model import OpenModel, find_model, open_model
from shapcut.measurement.perplexity import PerplexityResult, perplexity
from shapcut.support.files import write_json_atomically

RESULT = Path(__file__).parent / "results" / "mended_prune.json"
ZOO = Path(__file__).parent / "zoo" / "models"
BUDGET, REMOVED = 500, (4, 6)
"""Of a model of the zoo, and of the real one."""

BOTH = ("--calibration", "builtin+general")
WAYS: dict[str, tuple[str, ...]] = {
    "plain": ("--no-mend",),
    "default": (),
    "plain, same time": ("--no-mend",),
    "plain, two texts": ("--no-mend", *BOTH),
    "default, two texts": BOTH,
}


def opened(host: Host, name: str) -> OpenModel:
    found = open_model(host, find_model(host, name))
    found.model.float()
    return found


def pruned(model: str, removed: int, out: Path, options: tuple[str, ...], seed: int) -> dict[str, Any]:
    """Run the command; what it removed, and its seconds, in all and for the search."""
    command = [
        "prune",
        model,
        "--out",
        out,
        "--remove",
        removed,
        "--seed",
        seed,
        "--judge-on",
        "none",
        *options,
    ]
    begin = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "shapcut", *map(str, command), "--json"],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.exit(done.stderr)
    manifest = json.loads((out.with_name(out.name + ".run") / "manifest.json").read_text(encoding="utf-8"))
    return {
        "removed": json.loads(done.stdout)["plan"]["removed"],
        "seconds": round(time.monotonic() - begin, 1),
        "search": sum(phase["seconds"] for phase in manifest["phases"].values()),
    }


def judged(host: Host, name: str, texts: dict[str, Tensor]) -> dict[str, PerplexityResult]:
    found = opened(host, name)
    return {text: perplexity(found.adapter, found.model, windows) for text, windows in texts.items()}


def rows_of(
    model: str, removed: int, seed: int, *, texts: dict[str, Tensor], host: Host, ways: Sequence[str]
) -> list[dict[str, Any]]:
    """The cuts of one model and one seed, ``plain`` first."""
    found: list[dict[str, Any]] = []
    facts: dict[str, dict[str, Any]] = {}
    plain: dict[str, PerplexityResult] | None = None
    with tempfile.TemporaryDirectory() as directory:
        for number, way in enumerate(ways):
            budget = BUDGET
            if way == "plain, same time":
                more = facts["default"]["seconds"] - facts["plain"]["seconds"]
                budget = round(BUDGET * (1 + max(more, 0.0) / facts["plain"]["search"]))
            out = Path(directory) / str(number)
            facts[way] = pruned(model, removed, out, (*WAYS[way], "--budget", str(budget)), seed)
            here = judged(host, str(out), texts)
            found.append(row(way, here, plain, **facts[way], budget=budget))
            plain = plain or here
            print(seed, found[-1], flush=True)
    return found


def main() -> None:
    """Measure what the result file lacks."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", default=["llama", REAL])
    parser.add_argument("--judge-on", nargs="*", default=[], help="further texts")
    parser.add_argument("--windows", type=int, default=48, help="of each text")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument(
        "--ways", type=int, default=len(WAYS), metavar="N", help="measure only the first N ways"
    )
    given = parser.parse_args()
    host = build_host()
    rows: list[dict[str, Any]] = json.loads(RESULT.read_text())["rows"] if RESULT.exists() else []
    for name in given.models:
        model = f"demo:{name}" if name == REAL else str(ZOO / name)
        texts = held_out_texts(given.judge_on, opened(host, model).tokenizer, given.windows)
        for seed in given.seeds:
            if any((each["model"], each["seed"]) == (name, seed) for each in rows):
                continue
            key = {"model": name, "seed": seed, "windows": given.windows, "machine": machine()}
            ways, removed = list(WAYS)[: given.ways], REMOVED[name == REAL]
            made = rows_of(model, removed, seed, texts=texts, host=host, ways=ways)
            rows += [{**key, **each} for each in made]
            write_json_atomically(RESULT, {"rows": rows})


if __name__ == "__main__":
    main()
