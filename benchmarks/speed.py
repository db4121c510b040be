"""What evaluating coalitions costs, side by side with the way of the paper's public code.

    python benchmarks/speed.py --text wikitext2/valid.txt                # all parts
    python benchmarks/speed.py --text wikitext2/valid.txt coalitions     # this part again, the others stay

SmolLM2-135M, 10 windows of 128 tokens, 2 threads, one process; ours and the reference's way take turns, each
with the settings of the C library's allocator that it would have by itself.
"""

import argparse
import copy
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr

from reference_way import ReferenceWay, surrogate_calls, surrogate_network
from shapcut.api import load_game
from shapcut.data.windows import load_held_out
from shapcut.estimators.base import EstimationProblem
from shapcut.estimators.paper import PaperEstimator
from shapcut.estimators.sampling import StratifiedSampler
from shapcut.estimators.surrogate import PART, SHARE, SurrogateEstimator
from shapcut.game.coalitions import CoalitionMatrix, Values, without
from shapcut.game.game import FunctionGame
from shapcut.host.host import build_host
from shapcut.measurement.perplexity import perplexity
from shapcut.pipeline.score import Scoring
from shapcut.pipeline.session import prepare
from shapcut.recipe.recipe import Recipe, make_recipe
from shapcut.selection.base import SelectionProblem
from shapcut.selection.ranking import RankingSelector
from shapcut.support.allocator import keep_freed_memory
from shapcut.support.progress import ConsoleReporter
from shapcut.support.run_directory import open_run
from shapcut.valuation.bypass import BypassEvaluator
from shapcut.valuation.model_game import ModelGame
from shapcut.valuation.precision import has_fast_bfloat16
from shapcut.valuation.prefix_tree import COALITIONS_BEFORE_TRIAL, CoalitionEvaluator
from shapcut.valuation.utilities import PerplexityRatio
from speed_bench import LENGTH, MODEL, SAMPLES, SEED, Bench, default_allocator, seconds

RESULT = Path(__file__).parent / "results" / "speed.json"
COALITIONS, TURNS = 200, 4
REFERENCE_MASKS, REFERENCE_SURROGATE_MASKS = 8_000, 80_000
OFFLOAD_LIMIT, EXECUTOR_COALITIONS = 512 * 2**20, 60
DEFAULT_LENGTHS, DEFAULT_STRIDE, DEFAULT_BUDGET = (128, 512), 12, 150
GROWN, GROWN_WINDOWS, GROWN_TURNS = (25, 50, 100, 150), (4, 8, 16, 32), 3
N_REMOVE, BUDGET, WINDOWS, MASKS_RUN, HELD_OUT_WINDOWS = 6, 125, 8, 1_000, 240


def peak_memory() -> float:
    """The most that this process has held so far, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def environment() -> dict[str, str]:
    """The machine, torch's instruction set, and the processor's extensions for products of matrices."""
    path = Path("/proc/cpuinfo")
    flags = path.read_text(encoding="ascii", errors="ignore").split() if path.exists() else []
    extensions = [name for name in ("avx512_bf16", "avx512_fp16", "amx_bf16", "amx_int8") if name in flags]
    fast = "yes" if has_fast_bfloat16(torch.device("cpu")) else "no"
    return {
        "hardware": f"{torch.get_num_threads()} threads, {platform.machine()}, bfloat16 in hardware: {fast}",
        "instructions": ", ".join([torch.backends.cpu.get_cpu_capability(), *extensions]),
        "torch": torch.__version__,
    }


def matrix_product_peak() -> float:
    """Best GFLOPS of bfloat16 products of the sizes that occur, over a few seconds."""
    best = 0.0
    for rows, inner, columns in ((1280, 576, 1536), (1280, 1536, 576), (1270, 576, 4096), (5120, 576, 1536)):
        a, b = torch.randn(rows, inner).bfloat16(), torch.randn(columns, inner).bfloat16()
        for _ in range(60):
            took, _ = seconds(lambda a=a, b=b: torch.nn.functional.linear(a, b))
            best = max(best, 2 * rows * inner * columns / took / 1e9)
    return best


def fastest_reference(
    bench: Bench, ids: torch.Tensor | None = None
) -> tuple[ReferenceWay, list[dict[str, Any]]]:
    """The reference in the number format and batching that suit this machine best; emulated ones do not."""
    masks, tried = bench.coalitions(4, 0), []
    formats = [("float32", bench.model), ("bfloat16", bench.half)]
    for name, model in formats if has_fast_bfloat16(torch.device("cpu")) else formats[:1]:
        for at_once in (True, False):
            way = bench.reference(model, at_once=at_once, ids=ids)
            way.losses(masks[:1])
            took, _ = seconds(lambda way=way: way.losses(masks))
            tried.append({"dtype": name, "samples at once": at_once, "seconds": took / len(masks)})
    best = min(tried, key=lambda row: row["seconds"])
    model = bench.half if best["dtype"] == "bfloat16" else bench.model
    return bench.reference(model, at_once=best["samples at once"], ids=ids), tried


def started(bench: Bench, *, fuse: bool) -> CoalitionEvaluator:
    """An evaluator that has tried whether states may share a step."""
    evaluator = bench.ours(fuse=fuse)
    evaluator.means(np.ones((COALITIONS_BEFORE_TRIAL, len(bench.players)), dtype=np.bool_))
    return evaluator


def coalitions(bench: Bench) -> dict[str, Any]:
    """Seconds a coalition, in turns."""
    default_allocator()
    reference, tried = fastest_reference(bench)
    warm_up, evaluators = {}, {}
    for name, fuse in (("eager", False), ("fused", True)):
        warm_up[name], evaluators[name] = seconds(lambda fuse=fuse: started(bench, fuse=fuse))
    sets = {"independent": bench.coalitions(COALITIONS, 0), "siblings": bench.coalitions(COALITIONS, 2)}
    ways = {
        "eager, independent": ("eager", "independent"),
        "fused, independent": ("fused", "independent"),
        "fused, siblings": ("fused", "siblings"),
    }
    turns = []
    for turn in np.array_split(np.arange(COALITIONS), TURNS):
        default_allocator()
        took, _ = seconds(lambda turn=turn: reference.losses(sets["independent"][turn]))
        row: dict[str, Any] = {"reference": {"seconds": took / len(turn)}}
        keep_freed_memory()
        for label, (kernels, drawn) in ways.items():
            evaluator = evaluators[kernels]
            before = evaluator.work.block_runs
            took, _ = seconds(lambda turn=turn, e=evaluator, d=drawn: e.means(sets[d][turn]))
            row[label] = {
                "seconds": took / len(turn),
                "block runs": (evaluator.work.block_runs - before) / len(turn),
                "ratio": row["reference"]["seconds"] / (took / len(turn)),
            }
        turns.append(row)
        print(json.dumps(row), file=sys.stderr)
    peak = matrix_product_peak()
    block = 2.0 * bench.players[0].parameters * bench.ids.numel()
    vocabulary, width = bench.model.get_output_embeddings().weight.shape
    readout = 2.0 * SAMPLES * (LENGTH - 1) * vocabulary * width
    summary = {}
    for label in ("reference", *ways):
        took = float(np.mean([turn[label]["seconds"] for turn in turns]))
        runs = float(np.mean([turn[label].get("block runs", len(bench.players)) for turn in turns]))
        summary[label] = {
            "seconds a coalition": took,
            "block runs a coalition": runs,
            "share of the matrix-product peak": (runs * block + readout) / took / 1e9 / peak,
            "times faster than the reference": float(
                np.mean([turn["reference"]["seconds"] for turn in turns]) / took
            ),
        }
    return {
        "reference tried": tried,
        "warm-up seconds": warm_up,
        "turns": turns,
        "summary": summary,
        "peak GFLOPS": peak,
        "peak memory MiB": peak_memory(),
        "states a step": evaluators["fused"].states_per_step,
    }


def default(bench: Bench) -> dict[str, Any]:
    """Seconds a coalition of those that `shapcut prune` measures by default before its search, in turns."""
    drawn = default_coalitions(bench)
    lengths = {f"{SAMPLES} x {length}": default_at(bench, length, drawn) for length in DEFAULT_LENGTHS}
    return {"lengths": lengths}


def default_at(bench: Bench, length: int, drawn: CoalitionMatrix) -> dict[str, Any]:
    """The same at one length of windows; the reference measures some coalitions of each turn, on all text."""
    default_allocator()
    reference, tried = fastest_reference(bench, bench.windows(SAMPLES, length))
    game = default_game(bench, length)
    warm_up, _ = seconds(lambda: game.values(drawn[:1]))
    turns = []
    for turn in np.array_split(np.arange(1, len(drawn)), TURNS):
        default_allocator()
        some = turn[:: min(DEFAULT_STRIDE, len(turn))]
        took, _ = seconds(lambda some=some: reference.losses(drawn[some]))
        row = {"reference": took / len(some), "reference coalitions": len(some), "coalitions": len(turn)}
        keep_freed_memory()
        before = game.work.window_runs
        took, _ = seconds(lambda turn=turn: game.values(drawn[turn]))
        row |= {"default": took / len(turn), "window runs": (game.work.window_runs - before) / len(turn)}
        turns.append(row | {"ratio": row["reference"] / row["default"]})
        print(json.dumps(turns[-1]), file=sys.stderr)
    sizes = np.array([turn["coalitions"] for turn in turns]) / (len(drawn) - 1)
    mean = {
        key: float(sizes @ [turn[key] for turn in turns]) for key in ("reference", "default", "window runs")
    }
    return {
        "reference tried": tried,
        "coalitions": len(drawn) - 1,
        "windows": len(game.input_ids),
        "warm-up seconds": warm_up,
        "dtype": str(game.dtype).removeprefix("torch."),
        "fused": game.fuse,
        "turns": turns,
        "seconds a coalition": {"reference": mean["reference"], "default": mean["default"]},
        "window runs a coalition": mean["window runs"],
        "times faster than the reference": mean["reference"] / mean["default"],
        "peak memory MiB": peak_memory(),
    }


def default_game(bench: Bench, length: int) -> ModelGame:
    """What `shapcut prune` with default options measures in before its search, new."""
    game = prepare(default_recipe(bench, length), build_host(), target=True).game
    return game.narrowed(game.tokens_of_part(PART))


def default_recipe(bench: Bench, length: int) -> Recipe:
    """Default options but for the budget, the number of windows, their length and the text."""
    options = {"samples": SAMPLES, "sequence_length": length, "calibration": bench.text, "seed": SEED}
    return make_recipe(
        {"model": MODEL, "remove": N_REMOVE, "budget": DEFAULT_BUDGET, "finalist_samples": 0, **options}
    )


def default_coalitions(bench: Bench) -> CoalitionMatrix:
    """All players, the single absences and the guided draws, call by call in the order of a store.

    The draws follow from the values of the single absences alone, so that the others need not be measured.
    """
    game, rng = default_game(bench, LENGTH), np.random.default_rng(SEED)
    n = game.n_players
    singles = without(n, [(), *([player] for player in range(n))])
    known = game.values(singles)
    damage = known[0] - known[1:]
    alike = FunctionGame(n, lambda rows: known[0] - (~rows) @ damage)
    affordable = int((SHARE * DEFAULT_BUDGET - 1) * SAMPLES / len(game.input_ids))
    problem = EstimationProblem(alike, affordable, rng, n_remove=N_REMOVE)
    guided = SurrogateEstimator(share=1.0).estimate(problem).coalitions[len(singles) :]
    return np.vstack([singles, guided[np.lexsort(guided.T[::-1])]])


def values(bench: Bench) -> dict[str, Any]:
    """How far values are from the slow bypass of all windows at once.

    In bfloat16 on all coalitions, in float32 and with one window at a time on every fourth or eighth.
    """
    drawn = bench.coalitions(COALITIONS, 0)
    fourth, eighth = slice(None, None, 4), slice(None, None, 8)

    def bypass(model: torch.nn.Module, rows: CoalitionMatrix, windows: int = SAMPLES) -> Values:
        evaluator = BypassEvaluator(bench.adapter, model, bench.ids, "nll", sequences_per_step=windows)
        return evaluator.means(rows)

    fused, plain = (bench.ours(fuse=fuse).means(drawn) for fuse in (True, False))
    slow = bypass(bench.half, drawn)
    exact = bench.ours(fuse=False, model=bench.model).means(drawn[fourth])
    pairs = {
        "float32, against the bypass": (exact[::2], bypass(bench.model, drawn[eighth])),
        "bfloat16, against the bypass": (plain, slow),
        "bfloat16 fused, against the bypass": (fused, slow),
        "the bypass in bfloat16, one window at a time": (bypass(bench.half, drawn[fourth], 1), slow[fourth]),
        "bfloat16 fused, against float32": (fused[fourth], exact),
        "the bypass in bfloat16, against float32": (slow[fourth], exact),
    }
    rows = [
        {
            "values": name,
            "coalitions": len(found),
            "largest difference": float(np.abs(found - expected).max()),
            "Spearman": float(spearmanr(found, expected)[0]),
        }
        for name, (found, expected) in pairs.items()
    ]
    return {"rows": rows, "loss range": [float(slow.min()), float(slow.max())]}


def plan(bench: Bench) -> dict[str, Any]:
    """The whole way to a plan, against the reference's pipeline at its published sizes."""
    default_allocator()
    reference, _ = fastest_reference(bench)
    a_mask, _ = seconds(lambda: reference.losses(bench.coalitions(40, 0)))
    network = surrogate_network(len(bench.players)).eval()
    calls = bench.coalitions(40, 0)
    a_call, _ = seconds(lambda: surrogate_calls(network, calls))
    reference_seconds = a_mask / 40 * REFERENCE_MASKS + a_call / len(calls) * REFERENCE_SURROGATE_MASKS
    recipe = make_recipe(
        {
            "model": MODEL,
            "remove": N_REMOVE,
            "budget": BUDGET,
            "samples": WINDOWS,
            "calibration": bench.text,
            "seed": SEED,
        }
    )
    begin = time.perf_counter()
    host = build_host()
    session = prepare(recipe, host, target=True)
    with (
        tempfile.TemporaryDirectory() as directory,
        open_run(Path(directory)) as run,
        Scoring(session, run, ConsoleReporter()) as scoring,
    ):
        chosen = scoring.choose(scoring.estimate())
    ours = time.perf_counter() - begin
    return {
        "reference seconds a mask": a_mask / 40,
        "reference surrogate seconds a mask": a_call / len(calls),
        "reference seconds in all, multiplied": reference_seconds,
        "ours coalitions at most": BUDGET,
        "ours windows a coalition": WINDOWS,
        "ours seconds, from loading to the plan": ours,
        "times faster": reference_seconds / ours,
        "ours removed": list(chosen.removed),
        "ours perplexity": held_out_perplexity(bench, chosen.removed),
        "dense perplexity": held_out_perplexity(bench, ()),
    }


def paper(bench: Bench) -> dict[str, Any]:
    """The paper's method with many masks, and the held-out perplexity of its plan."""
    game = ModelGame(bench.model, bench.adapter, bench.ids, utility=PerplexityRatio(), fuse=True)
    took, contributions = seconds(
        lambda: PaperEstimator(bootstraps=2).estimate(
            EstimationProblem(game, MASKS_RUN + 1, np.random.default_rng(SEED))
        )
    )
    chosen = (
        RankingSelector()
        .select(SelectionProblem(contributions, game.players, N_REMOVE, rng=np.random.default_rng(SEED)))
        .removed
    )
    return {
        "masks": MASKS_RUN,
        "windows": SAMPLES,
        "seconds by our evaluation": took,
        "removed": list(chosen),
        "perplexity": held_out_perplexity(bench, chosen),
    }


def held_out_perplexity(bench: Bench, removed: Collection[int]) -> float:
    """Perplexity without these players, in float32."""
    windows = load_held_out(bench.text, bench.tokenizer, samples=HELD_OUT_WINDOWS, sequence_length=LENGTH)
    kept = [player for player in range(len(bench.players)) if player not in removed]
    with bench.adapter.bypass(bench.model, kept):
        return perplexity(bench.adapter, bench.model, windows.input_ids).perplexity


def growth(bench: Bench) -> dict[str, Any]:
    """Seconds against coalitions, tokens and layers, without fused kernels; medians of some turns.

    Fewer coalitions are a random part of the most, so that they are as large on average.
    """
    drawn, order = bench.coalitions(GROWN[-1], 0), np.random.default_rng(SEED).permutation(GROWN[-1])
    ids, few = bench.windows(GROWN_WINDOWS[0]), drawn[np.sort(order[:20])]
    sizes: dict[tuple[str, int], Callable[[], tuple[CoalitionEvaluator, CoalitionMatrix]]] = {}
    for count in GROWN:
        some = drawn[np.sort(order[:count])]
        sizes["coalitions", count] = lambda some=some: (bench.ours(fuse=False, ids=ids), some)
    for samples in GROWN_WINDOWS:
        windows = bench.windows(samples)
        sizes["tokens", windows.numel()] = lambda windows=windows: (bench.ours(fuse=False, ids=windows), few)
    for layers in (10, 20, 30):
        sizes["layers", layers] = partial(_of_layers, bench, layers, ids)
    turns = {size: list[float]() for size in sizes}
    for _ in range(GROWN_TURNS):
        for size, prepared in sizes.items():
            evaluator, rows = prepared()
            turns[size].append(seconds(lambda e=evaluator, some=rows: e.means(some))[0])
    found: dict[str, Any] = {"coalitions": [], "tokens": [], "layers": []}
    for (what, size), took in turns.items():
        found[what].append([size, float(np.median(took))])
    return {"curves": found, "turns": GROWN_TURNS}


def _of_layers(bench: Bench, layers: int, ids: torch.Tensor) -> tuple[CoalitionEvaluator, CoalitionMatrix]:
    """The evaluation of the model's first layers, and coalitions of them."""
    model = copy.deepcopy(bench.half)
    if layers < len(bench.players):
        model = bench.adapter.remove(model, range(layers, len(bench.players)))
    sampler = StratifiedSampler(generations=0)
    some = sampler.sample(bench.adapter.players(model), 20, np.random.default_rng(SEED))
    return bench.ours(fuse=False, model=model, ids=ids, layers=layers), some


def limited(directory: Path, limit: int, arguments: list[str]) -> dict[str, Any]:
    """A run of the command line in a control group that may hold so many bytes, the file cache included."""
    group = Path("/sys/fs/cgroup/memory") / f"shapcut-{os.getpid()}"
    group.mkdir()
    try:
        (group / "memory.limit_in_bytes").write_text(str(limit))
        command = [sys.executable, "-m", "shapcut", *arguments, "--run", str(directory)]
        took, done = seconds(
            lambda: subprocess.run(
                command,
                capture_output=True,
                text=True,
                check=False,
                preexec_fn=lambda: (group / "cgroup.procs").write_text(str(os.getpid())),
            )
        )
        return {
            "exit status": done.returncode,
            "seconds": took,
            "most bytes": int((group / "memory.max_usage_in_bytes").read_text()),
            "last line": (done.stderr.strip().splitlines() or [""])[-1][-200:],
        }
    finally:
        group.rmdir()


def offload(bench: Bench) -> dict[str, Any]:
    """Runs under a limit below the size of the weights, with every block on disk and without."""
    weights = sum(weight.numel() * weight.element_size() for weight in bench.model.parameters())
    arguments = ["score", MODEL, "--budget", "40", "--samples", "2", "--memory-budget", "32MiB"]
    found: dict[str, Any] = {"limit": OFFLOAD_LIMIT, "weights": weights}
    for where in ("disk", "off"):
        with tempfile.TemporaryDirectory() as directory:
            run = Path(directory) / "run"
            found[where] = limited(run, OFFLOAD_LIMIT, [*arguments, "--offload", where])
            plan = run / "contributions.json"
            found[where]["contributions written"] = plan.is_file()
    return found


def executors(bench: Bench) -> dict[str, Any]:
    """Two Ray workers with one thread each, one local process with two threads, on the same coalitions."""
    drawn = bench.coalitions(EXECUTOR_COALITIONS, 0)
    host = build_host()
    game = load_game(MODEL, calibration=bench.text, samples=SAMPLES, sequence_length=LENGTH, seed=SEED)
    local_start, _ = seconds(lambda: game.values(drawn[:1]))
    local, expected = seconds(lambda: game.values(drawn))
    executor = host.executors.create("ray:workers=2,threads=1")
    with executor.distribute([game]) as (distributed,):
        ray_start, _ = seconds(lambda: distributed.values(drawn[:2]))
        spread, found = seconds(lambda: distributed.values(drawn))
    return {
        "coalitions": len(drawn),
        "local seconds": local,
        "ray seconds": spread,
        "ray over local": spread / local,
        "local seconds to start": local_start,
        "ray seconds to start": ray_start,
        "largest difference of values": float(np.abs(found - expected).max()),
    }


PARTS: dict[str, Callable[[Bench], dict[str, Any]]] = {
    "coalitions": coalitions,
    "default": default,
    "values": values,
    "plan": plan,
    "paper": paper,
    "growth": growth,
    "offload": offload,
    "executors": executors,
}


def main() -> None:
    """Run the parts that are asked for and write the result after each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []])
    parser.add_argument("--text", required=True)
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    bench = Bench(given.text)
    text = "/".join(Path(given.text).parts[-2:])
    for part in given.parts or list(PARTS):
        print(f"{part} ...", file=sys.stderr)
        found = PARTS[part](bench) | {"environment": environment()}
        content = json.loads(RESULT.read_text()) if RESULT.exists() else {}
        content |= {
            "model": "SmolLM2-135M-Instruct, 30 blocks, Q4_1 weights dequantized",
            "text": f"{text}, {SAMPLES} x {LENGTH} tokens of its first three quarters, seed {SEED}",
            part: found,
        }
        RESULT.write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
