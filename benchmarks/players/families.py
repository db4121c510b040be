"""Of which families of transformers experts, sub-layers or both can be absent exactly: all are tried.

    python benchmarks/players/families.py                   # all; goes on where an interrupted sweep stopped
    python benchmarks/players/families.py mixtral dbrx      # these again, the other rows stay
    python benchmarks/players/families.py --granularity sublayer
    python benchmarks/players/families.py --granularity mixed

Experts: each family's tiny random model loses one and two experts of each layer, or of each group of its
router, and single ones. Bypassing, the fast path, removal, saving and reloading, and decoding with and
without a cache have to agree. Families without experts are left out.

Sub-layers: the model runs without single ones, without random sets of both kinds and without whole blocks.
Bypassing and the fast path have to agree with each other, with the absence of whole blocks, and with a model
whose output projections are zero, weights and biases, wherever these are linear maps of their own.

Mixed: the model loses blocks, MoE parts and experts of the other layers, alone and together. The checks are
those of experts.

Examples that need a package that is not installed are left out.
"""

import argparse
import json
import platform
import sys
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from torch import nn

from shapcut.game.granularity import Granularity, plural
from shapcut.support.errors import UnsupportedModelError
from shapcut.support.files import write_json_atomically
from shapcut.support.quiet import quiet_libraries
from shapcut.support.suggest import did_you_mean
from shapcut.testing import Case, run_check
from shapcut.testing.comparison import TOLERANCE
from shapcut_adapters.transformers.adapter import HFDecoderAdapter

RESULTS = {
    "expert": Path(__file__).parents[1] / "results" / "players_families.json",
    "sublayer": Path(__file__).parents[1] / "results" / "sublayers_families.json",
    "mixed": Path(__file__).parents[1] / "results" / "mixed_families.json",
}
OF_EXPERTS = (
    "absent-is-ignored",
    "stack-equals-bypass",
    "remove-equals-bypass",
    "reload-equals-removed",
    "cached-decoding",
    "removal-composes",
    "parameter-count",
    "refusals-have-reasons",
)
CHECKS = {
    "expert": OF_EXPERTS,
    "mixed": OF_EXPERTS,
    "sublayer": (
        "absent-is-ignored",
        "each-absence-matters",
        "parts-are-their-block",
        "stack-equals-bypass",
    ),
}
WITHOUT = "has no experts"
COMPARED = 4


def row(adapter: HFDecoderAdapter, name: str, granularity: Granularity) -> dict[str, Any] | None:
    """The verdict on one family, and what it rests on; None if it has no experts or cannot be built."""
    started = time.perf_counter()
    try:
        model, input_ids = adapter.examples()[name](0)
    except ImportError:
        return None
    model = adapter.canonicalise(model)
    try:
        players = adapter.players(model, granularity)
    except UnsupportedModelError as error:
        return None if WITHOUT in str(error) else {"verdict": "refused", "reason": str(error)}
    case = Case(adapter, name, model, input_ids, seed=0, granularity=granularity)
    results = [run_check(case, check) for check in CHECKS[granularity]]
    failed = [f"{result.check}: {result.detail}" for result in results if not result.passed]
    about = with_sublayers(case) if granularity == "sublayer" else with_experts(case)
    if about.get("largest_from_zeroed", 0.0) > TOLERANCE:
        failed.append(f"zeroed projections: differs by {about['largest_from_zeroed']:.2g} of the effect")
    return {
        "verdict": "wrong" if failed else "exact",
        **({"failed": failed} if failed else {}),
        "largest_difference": case.largest_difference,
        plural(granularity).replace(" ", "_"): len(players),
        **about,
        "fast_path": case.stack(case.model) is not None,
        "seconds": round(time.perf_counter() - started, 1),
    }


def with_experts(case: Case) -> dict[str, Any]:
    return {"groups": len(case.groups), "removals": len(case.removable_sets)}


def with_sublayers(case: Case) -> dict[str, Any]:
    """The kinds of players, and how far bypassing is from a model with zeroed output projections."""
    kinds = [player.kind for player in case.players]
    model = case.fresh()
    ends = output_ends(case, model)
    known = sorted(set(ends) & set(case.probed))
    generator = np.random.default_rng(1)
    differences = []
    for size in range(1, COMPARED + 1) if known else ():
        absent = generator.choice(known, size=min(size, len(known)), replace=False).tolist()
        with zeroed(model, [path for player in absent for path in ends[player]]):
            expected = case.logits(model)
        effect = case.comparison().effect(expected, f"without {absent}")
        differences.append(float((case.reference(absent) - expected).abs().max()) / effect)
    return {
        "kinds": {kind: kinds.count(kind) for kind in sorted(set(kinds))},
        "compared_with_zeroed": len(differences),
        **({"largest_from_zeroed": max(differences)} if differences else {}),
    }


@contextmanager
def zeroed(model: nn.Module, paths: Collection[str]) -> Iterator[None]:
    """Zero the weights and biases of some modules."""
    weights = [weight for path in paths for weight in model.get_submodule(path).parameters()]
    before = [weight.detach().clone() for weight in weights]
    with torch.no_grad():
        for weight in weights:
            weight.zero_()
        yield
        for weight, earlier_one in zip(weights, before, strict=True):
            weight.copy_(earlier_one)


def output_ends(case: Case, model: nn.Module) -> dict[int, list[str]]:
    """By player, the linear maps that it ends in, where these are all that it adds."""
    found: dict[int, list[str]] = {}
    for block in case.adapter.players(model):
        parts = [player for player in case.players if player.name.startswith(f"{block.name}.")]
        projections = case.adapter.output_projections(model, block)
        if len(projections) != len(parts) and not all(end.linear for end in projections):
            continue  # several modules make up a part, and it is not known which
        first = len(projections) if len(parts) == 1 else -1  # the last one is the MLP's
        for part, ends in zip(parts, (projections[:first], projections[first:]), strict=False):
            if ends and all(end.linear for end in ends):
                found[part.index] = [end.module for end in ends]
    return found


def earlier(result: Path, again: Collection[str]) -> tuple[dict[str, Any], bool]:
    """The rows of an earlier sweep that stay, and whether it was complete.

    Those done if it was interrupted, or all but the ones to try again.
    """
    if not result.exists():
        return {}, False
    content = json.loads(result.read_text(encoding="utf-8"))
    complete = bool(content["complete"])
    if content["transformers"] != transformers.__version__ or (complete and not again):
        return {}, False
    return {name: row for name, row in content["families"].items() if name not in again}, complete


def write(rows: Mapping[str, Any], granularity: Granularity, *, complete: bool) -> None:
    verdicts = [row["verdict"] for row in rows.values()]
    content = {
        "command": "python benchmarks/players/families.py"
        + ("" if granularity == "expert" else f" --granularity {granularity}"),
        "transformers": transformers.__version__,
        "torch": torch.__version__,
        "machine": platform.machine(),
        "complete": complete,
        "counts": {verdict: verdicts.count(verdict) for verdict in sorted(set(verdicts))},
        "families": {name: rows[name] for name in sorted(rows)},
    }
    write_json_atomically(RESULTS[granularity], content)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="MODEL_TYPE", help="only these, again")
    parser.add_argument("--granularity", choices=RESULTS, default="expert")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    adapter = HFDecoderAdapter()
    examples = adapter.examples()
    if unknown := [name for name in arguments.names if name not in examples]:
        parser.error(f"unknown model type {unknown[0]!r}: {did_you_mean(unknown[0], examples)}")
    granularity = arguments.granularity
    rows, was_complete = earlier(RESULTS[granularity], arguments.names)
    for name in arguments.names or [each for each in examples if each not in rows]:
        with quiet_libraries():
            found = row(adapter, name, granularity)
        if found is not None:
            rows[name] = found
            print(f"{name}: {found['verdict']} {found.get('reason', found.get('failed', ''))}", flush=True)
            write(rows, granularity, complete=False)
    write(rows, granularity, complete=was_complete or not arguments.names)
    return 1 if any(row["verdict"] == "wrong" for row in rows.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
