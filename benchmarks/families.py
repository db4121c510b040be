"""Which families of transformers' causal language models can be pruned exactly: all of them, tried.

    python benchmarks/families.py                    # all; goes on where an interrupted sweep stopped
    python benchmarks/families.py llama gpt2         # these again, the other rows stay

For each family that an adapter claims, tiny random models lose their first block, their last, both, and
random sets of one to four. Bypassing, the fast path, removal, saving and reloading, and decoding with and
without a cache have to agree. A family that no adapter claims is listed as refused. A kind whose vision tower
needs packages that are not installed (timm and torchvision, for Gemma 3n) keeps its row.
"""

import argparse
import json
import platform
import sys
import time
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
)

from shapcut.host.host import build_host
from shapcut.models.adapter import Adapter
from shapcut.support.files import write_json_atomically
from shapcut.support.quiet import one_line, quiet_libraries
from shapcut.support.suggest import did_you_mean
from shapcut.testing import Case, cases_of, run_check
from shapcut_adapters.transformers.families import FAMILIES, WRAPPERS
from shapcut_adapters.transformers.families.rules import Condition

RESULT = Path(__file__).parent / "results" / "families.json"
CHECKS = (
    "stack-equals-bypass",
    "remove-equals-bypass",
    "reload-equals-removed",
    "cached-decoding",
    "parameter-count",
    "config-follows-depth",
    "refusals-have-reasons",
)
WHOLE = {
    name: MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES[name] for name in (each.model_type for each in WRAPPERS)
}
CLASSES = {**MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, **WHOLE}
"""The class of each model type, of causal language models and of multimodal models around one."""

CONDITIONS = {
    family.model_type: [
        f"needs {rule.field}={rule.value} (otherwise {rule.otherwise})"
        for rule in family.all_rules
        if isinstance(rule, Condition)
    ]
    for family in FAMILIES
}


def row(adapter: Adapter | None, model_type: str, seeds: Sequence[int]) -> dict[str, Any]:
    """The verdict on one family, and what it rests on."""
    if adapter is None:
        return {"verdict": "refused: no adapter knows it"}
    started = time.perf_counter()
    try:
        built = [cases_of(adapter, model_type, adapter.examples()[model_type], seed)[0] for seed in seeds]
    except Exception as error:  # noqa: BLE001 - whatever keeps an example from being built is the verdict
        return {"verdict": f"not buildable: {one_line(error)}"}
    found = judged(built, CONDITIONS.get(model_type, []))
    return {**found, "adapter": adapter.name, "seconds": round(time.perf_counter() - started, 1)}


def judged(built: Sequence[Case], conditions: Sequence[str]) -> dict[str, Any]:
    """What the checks say of a family's examples, one a seed."""
    results = [run_check(case, check) for case in built for check in CHECKS]
    failed = [f"{result.check}: {result.detail}" for result in results if not result.passed]
    refusals = [reason for case in built for reason in case.requests.values()]
    reasons = sorted({reason for reason in refusals if reason is not None})
    removals = refusals.count(None)
    constraints = [*conditions, *without_indices(reasons)]
    return {
        "verdict": verdict(failed, removals, constraints),
        "blocks": len(built[0].players),
        "removals": removals,
        "refused": len(refusals) - removals,
        "constraints": constraints,
        "largest_difference": max(case.largest_difference for case in built),
        "fast_path": built[0].stack(built[0].fresh()) is not None,
        "cache": built[0].adapter.cache_differs(built[0].model),
    }


def verdict(failed: Sequence[str], removals: int, constraints: Sequence[str]) -> str:
    """One phrase."""
    if removals == 0:
        return f"refused: {constraints[0]}"
    if failed:
        return f"WRONG: {failed[0]}"
    return "exact with constraints" if constraints else "exact"


def without_indices(reasons: Sequence[str]) -> list[str]:
    """Each kind of reason once: what follows the name of the player that it is about."""
    kinds = {reason.partition("cannot be removed: ")[2] or reason for reason in reasons}
    return sorted(kinds)


def claims() -> dict[str, Adapter]:
    """The adapter of each family that has one."""
    host = build_host()
    adapters = [host.adapters.create(entry.name) for entry in host.adapters]
    return {name: adapter for adapter in adapters for name in adapter.examples()}


def unfinished(seeds: Sequence[int], names: Sequence[str]) -> dict[str, Any]:
    """The rows of an earlier sweep that stay: those done if it was interrupted, or all but the named ones."""
    if not RESULT.exists():
        return {}
    content = json.loads(RESULT.read_text(encoding="utf-8"))
    same = content["transformers"] == transformers.__version__ and content["seeds"] == list(seeds)
    again = content["families"] if not same or (content["complete"] and not names) else names
    staying = {wrapper.model_type for wrapper in WRAPPERS if not all(map(find_spec, wrapper.needs))}
    return {name: row for name, row in content["families"].items() if name not in again or name in staying}


def write(families: Mapping[str, Any], seeds: Sequence[int]) -> None:
    content = {
        "command": "python benchmarks/families.py",
        "transformers": transformers.__version__,
        "torch": torch.__version__,
        "machine": platform.machine(),
        "seeds": list(seeds),
        "complete": families.keys() == CLASSES.keys(),
        "families": {name: families[name] for name in sorted(families)},
    }
    RESULT.parent.mkdir(exist_ok=True)
    write_json_atomically(RESULT, content)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="MODEL_TYPE", help="only these, again")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    arguments = parser.parse_args()
    if unknown := [name for name in arguments.names if name not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES]:
        hint = did_you_mean(unknown[0], MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
        parser.error(f"unknown model type {unknown[0]!r}: {hint}")
    torch.set_num_threads(1)
    adapters = claims()
    rows = unfinished(arguments.seeds, arguments.names)
    for model_type in sorted({*(arguments.names or CLASSES)} - rows.keys()):
        with quiet_libraries():
            rows[model_type] = row(adapters.get(model_type), model_type, arguments.seeds)
        rows[model_type]["class"] = CLASSES[model_type]
        print(
            f"{model_type}: {rows[model_type]['verdict']} ({rows[model_type].get('seconds', 0)} s)",
            flush=True,
        )
        write(rows, arguments.seeds)
    return 1 if any(row["verdict"].startswith("WRONG") for row in rows.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
