"""Of which families of transformers experts can be removed exactly: all that have any, tried.

    python benchmarks/players/families.py                   # all; goes on where an interrupted sweep stopped
    python benchmarks/players/families.py mixtral dbrx      # these again, the other rows stay

Each family's tiny random model loses one and two experts of each layer, or of each group of its router, and
single ones. Bypassing, the fast path, removal, saving and reloading, and decoding with and without a cache
have to agree. Families without experts are left out, and examples that need a package that is not installed.
"""

import argparse
import json
import platform
import sys
import time
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
import transformers

from shapcut.support.errors import UnsupportedModelError
from shapcut.support.files import write_json_atomically
from shapcut.support.quiet import quiet_libraries
from shapcut.support.suggest import did_you_mean
from shapcut.testing import Case, run_check
from shapcut_adapters.transformers.adapter import HFDecoderAdapter

RESULT = Path(__file__).parents[1] / "results" / "players_families.json"
CHECKS = (
    "absent-is-ignored",
    "stack-equals-bypass",
    "remove-equals-bypass",
    "reload-equals-removed",
    "cached-decoding",
    "removal-composes",
    "parameter-count",
    "refusals-have-reasons",
)
WITHOUT = "has no experts"


def row(adapter: HFDecoderAdapter, name: str) -> dict[str, Any] | None:
    """The verdict on one family, and what it rests on; None if it has no experts or cannot be built."""
    started = time.perf_counter()
    try:
        model, input_ids = adapter.examples()[name](0)
    except ImportError:
        return None
    try:
        players = adapter.players(model, "expert")
    except UnsupportedModelError as error:
        return None if WITHOUT in str(error) else {"verdict": "refused", "reason": str(error)}
    case = Case(adapter, name, adapter.canonicalise(model), input_ids, seed=0, granularity="expert")
    results = [run_check(case, check) for check in CHECKS]
    failed = [f"{result.check}: {result.detail}" for result in results if not result.passed]
    return {
        "verdict": "wrong" if failed else "exact",
        **({"failed": failed} if failed else {}),
        "largest_difference": case.largest_difference,
        "experts": len(players),
        "groups": len(case.groups),
        "removals": len(case.removable_sets),
        "fast_path": case.stack(case.fresh()) is not None,
        "seconds": round(time.perf_counter() - started, 1),
    }


def earlier(again: Collection[str]) -> tuple[dict[str, Any], bool]:
    """The rows of an earlier sweep that stay, and whether it was complete.

    Those done if it was interrupted, or all but the ones to try again.
    """
    if not RESULT.exists():
        return {}, False
    content = json.loads(RESULT.read_text(encoding="utf-8"))
    complete = bool(content["complete"])
    if content["transformers"] != transformers.__version__ or (complete and not again):
        return {}, False
    return {name: row for name, row in content["families"].items() if name not in again}, complete


def write(rows: Mapping[str, Any], *, complete: bool) -> None:
    verdicts = [row["verdict"] for row in rows.values()]
    content = {
        "command": "python benchmarks/players/families.py",
        "transformers": transformers.__version__,
        "torch": torch.__version__,
        "machine": platform.machine(),
        "complete": complete,
        "counts": {verdict: verdicts.count(verdict) for verdict in sorted(set(verdicts))},
        "families": {name: rows[name] for name in sorted(rows)},
    }
    write_json_atomically(RESULT, content)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="MODEL_TYPE", help="only these, again")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    adapter = HFDecoderAdapter()
    examples = adapter.examples()
    if unknown := [name for name in arguments.names if name not in examples]:
        parser.error(f"unknown model type {unknown[0]!r}: {did_you_mean(unknown[0], examples)}")
    rows, was_complete = earlier(arguments.names)
    for name in arguments.names or [each for each in examples if each not in rows]:
        with quiet_libraries():
            found = row(adapter, name)
        if found is not None:
            rows[name] = found
            print(f"{name}: {found['verdict']} {found.get('reason', found.get('failed', ''))}", flush=True)
            write(rows, complete=False)
    write(rows, complete=was_complete or not arguments.names)
    return 1 if any(row["verdict"] == "wrong" for row in rows.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
