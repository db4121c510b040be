"""What evaluating coalitions costs on one GPU, side by side with other ways; written to results/gpu.json.

    python benchmarks/gpu.py                          # every section, in order of importance
    python benchmarks/gpu.py default kernels          # these sections only, the others stay as they are
    python benchmarks/gpu.py --tiny --result x.json   # the same code with a small model on a CPU

The model is random, in bfloat16, of the shape of Llama-3-8B, and built on the device: the time is that of
trained weights. Nothing is downloaded. After ``--minutes`` no further section starts; those left out are
named in the result. A section that fails (out of memory, say) is noted.
"""

import argparse
import json
import os
import platform
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gpu_bench import SEED, SMALL, TINY, Bench, Sizes
from reference_way import ReferenceWay, RemovedLayers, ZeroedOutputs
from shapcut.models.layer_stack import State
from shapcut.support.files import write_json_atomically
from shapcut.support.quiet import one_line
from shapcut.valuation.bypass import BypassEvaluator
from shapcut.valuation.compiled import Fused
from shapcut.valuation.readout import make_readout
from shapcut.valuation.state_memory import TOKENS_PER_STEP

HERE = Path(__file__).parent


def default_way(bench: Bench) -> dict[str, Any]:
    """The coalitions that the default estimator asks for, one call a stage."""
    started, evaluator = bench.timed(bench.ours)
    found: dict[str, Any] = {"seconds to start": started}
    singles, guided = bench.requests
    found["all and single absences"], _ = bench.measure(evaluator, [singles])
    found["guided draws"], losses = bench.measure(evaluator, [guided])
    bench.losses = losses[: bench.sizes.peer_coalitions]
    found["losses from, to"] = [float(losses.min()), float(losses.max())]
    found["full model"] = evaluator.full_mean
    return found


def peers(bench: Bench) -> dict[str, Any]:
    """Other ways on the first guided coalitions, one window at a time."""
    ways = {
        "reference: zero weights, run, restore weights": ReferenceWay,
        "zero outputs, all blocks run": ZeroedOutputs,
        "remove layers, run, restore layers": RemovedLayers,
    }
    rows, found = bench.requests[1][: bench.sizes.peer_coalitions], dict[str, Any]()
    present = float(rows.sum(axis=1).mean())
    for name, kind in ways.items():
        way = bench.peer(kind, bench.ids)
        way.losses(rows[:1])
        bench.free()
        took, losses = bench.timed(lambda way=way: way.losses(rows))
        runs = present if kind is RemovedLayers else float(bench.n)
        found[name] = bench.row(took / len(rows), len(rows), runs) | bench.against_ours(losses)
    skipping = BypassEvaluator(bench.adapter, bench.model, bench.ids, "nll")
    row, losses = bench.measure(skipping, [rows])
    found["run the present blocks, one coalition after another"] = row | bench.against_ours(losses)
    return found


def stratified(bench: Bench) -> dict[str, Any]:
    """Independent draws and siblings at the reference's sizes, one call."""
    drawn = {"independent": bench.stratified(0), "siblings": bench.stratified(2)}
    return {name: bench.measure(bench.ours(), [rows])[0] for name, rows in drawn.items()}


def one_row(bench: Bench) -> dict[str, Any]:
    """The guided draws with one coalition a call."""
    rows = bench.requests[1]
    row, losses = bench.measure(bench.ours(), [rows[i : i + 1] for i in range(len(rows))])
    return {"guided draws": row | bench.against_ours(losses)}


def compiled(bench: Bench) -> dict[str, Any]:
    """The guided draws with fused steps and readout, which are compiled at the start."""
    rows = bench.requests[1]
    started, evaluator = bench.timed(lambda: bench.ours(fuse=True))
    row, losses = bench.measure(evaluator, [rows])
    return {
        "seconds to start and compile": started,
        "steps are fused": evaluator.fused,
        "guided draws": row | bench.against_ours(losses),
    }


def block_runs(bench: Bench) -> dict[str, Any]:
    """Block runs a coalition at two numbers of windows, with as many states in memory as the model has.

    Counted on a narrow model of the same depth, whose memory budget is smaller in the same proportion.
    """
    narrow = Bench(bench.sizes, TINY | {"num_hidden_layers": bench.n})
    share = narrow.head.shape[1] / bench.head.shape[1] * narrow.dtype.itemsize / bench.dtype.itemsize
    found = dict[str, Any]()
    for windows in (bench.sizes.windows, bench.sizes.more_windows):
        evaluator = narrow.ours(ids=narrow.windows(windows), budget=int(bench.budget * share))
        counts = {}
        for name, rows in zip(("all and single absences", "guided draws"), narrow.requests, strict=True):
            before = evaluator.work.block_runs
            evaluator.means(rows)
            counts[name] = (evaluator.work.block_runs - before) / len(rows)
        found[f"{windows} windows"] = counts
    return found


def more_windows(bench: Bench) -> dict[str, Any]:
    """Some guided draws and the reference on more windows."""
    ids, rows = bench.windows(bench.sizes.more_windows), bench.requests[1][: bench.sizes.peer_coalitions]
    started, evaluator = bench.timed(lambda: bench.ours(ids=ids))
    row, losses = bench.measure(evaluator, [rows], ids.numel())
    del evaluator
    bench.free()
    way = bench.peer(RemovedLayers, ids)
    took, expected = bench.timed(lambda: way.losses(rows[:1]))
    return {
        "windows": bench.sizes.more_windows,
        "seconds to start": started,
        "guided draws": row,
        "remove layers, run, restore layers": bench.row(took, 1, float(rows[0].sum()), ids.numel()),
        "largest difference from ours": abs(float(expected[0] - losses[0])),
    }


def kernels(bench: Bench) -> dict[str, Any]:
    """One step and one readout: eager, fused, and replayed as a CUDA graph; seconds a call."""
    windows = min(bench.sizes.windows, max(1, TOKENS_PER_STEP // bench.sizes.length))
    parts = {"a full step": bench.ids[:windows], "a short window": bench.ids[:1, : bench.sizes.length // 16]}
    return {f"{name}, {tuple(ids.shape)} tokens": _calls(bench, ids) for name, ids in parts.items()}


@torch.inference_mode()
def _calls(bench: Bench, ids: Tensor) -> dict[str, Any]:
    """Seconds a call of a step and of the readout for a few windows, in each way."""
    found: dict[str, Any] = {"step": {}, "readout": {}}
    for way in ("eager", "fused"):
        stack = bench.stack()
        if way == "fused":
            stack.fuse(Fused)
        state = stack.prelude(ids)
        readout = make_readout("nll", stack, ids, fuse=way == "fused")
        calls: dict[str, Callable[[State], Any]] = {
            "step": lambda state, stack=stack: stack.step(1, state),
            "readout": lambda state, readout=readout: readout.window_means([state]),
        }
        for name, call in calls.items():
            found[name][way] = _seconds(bench, lambda call=call, state=state: call(state))
            if way == "eager" and bench.on_gpu:
                found[name]["CUDA graph"] = _graphed(bench, lambda call=call, state=state: call(state))
    return found


def _seconds(bench: Bench, call: Callable[[], Any]) -> float:
    """Seconds a call, after two calls that are not counted."""
    for _ in range(2):
        call()
    took, _ = bench.timed(lambda: [call() for _ in range(bench.sizes.repeats)] and None)
    return took / bench.sizes.repeats


def _graphed(bench: Bench, call: Callable[[], Any]) -> float | str:
    """Seconds per replay of a CUDA graph of the call, or the reason that capturing it failed."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph):
            call()
    except RuntimeError as error:
        return f"not captured: {one_line(error)}"
    return _seconds(bench, graph.replay)


SECTIONS: dict[str, Callable[[Bench], dict[str, Any]]] = {
    "default": default_way,
    "peers": peers,
    "stratified": stratified,
    "one-row": one_row,
    "block-runs": block_runs,
    "compiled": compiled,
    "more-windows": more_windows,
    "kernels": kernels,
}
"""By importance; capturing graphs comes last, because a failed capture may spoil what follows."""


def stated(bench: Bench) -> dict[str, Any]:
    """What the figures belong to."""
    (vocabulary, width), products = bench.head.shape, torch.backends.cuda.matmul
    return {
        "command": f"python benchmarks/gpu.py {shlex.join(sys.argv[1:])}".strip(),
        "seed": SEED,
        "model": f"random Llama, {bench.n} blocks, width {width}, vocabulary {vocabulary}, {bench.dtype}",
        "tokens": [bench.sizes.windows, bench.sizes.length],
        "removing": bench.sizes.remove,
        "device": torch.cuda.get_device_name() if bench.on_gpu else platform.machine(),
        "memory GiB": torch.cuda.get_device_properties(0).total_memory / 2**30 if bench.on_gpu else None,
        "torch": torch.__version__,
        "CUDA": torch.version.cuda,
        "CPU": f"{os.cpu_count()} processors, {torch.backends.cpu.get_cpu_capability()}",
        "TF32": products.allow_tf32,
        "reduced precision in bfloat16 sums": products.allow_bf16_reduced_precision_reduction,
        "seconds to build the model": bench.seconds_to_build,
        "peak TFLOPS of products": bench.peak / 1e12,
        "memory budget GiB": bench.budget / 2**30,
    }


def run(bench: Bench, sections: Sequence[str], end: float, result: Path, content: dict[str, Any]) -> None:
    """Run the sections that start before the end; name the others; write the result after each."""
    content["left out"] = []
    for name in sections:
        if time.monotonic() >= end:
            content["left out"].append(name)
        else:
            print(f"{name} ...", file=sys.stderr, flush=True)
            bench.free()
            begin = time.monotonic()
            try:
                content[name] = SECTIONS[name](bench)
            except (RuntimeError, AssertionError) as error:  # out of memory is a result, too
                content[name] = {"failed": f"{type(error).__name__}: {one_line(error)}"}
            content[name]["seconds in all"] = time.monotonic() - begin
        write_json_atomically(result, content)


def main() -> None:
    """Measure, and write the result."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sections", nargs="*", choices=[*SECTIONS, []], metavar="SECTION")
    parser.add_argument("--minutes", type=float, default=5.0, help="no section starts later")
    parser.add_argument("--tiny", action="store_true", help="a small model, nothing is compiled; for tests")
    parser.add_argument("--result", type=Path, default=HERE / "results" / "gpu.json")
    given = parser.parse_args()
    end = time.monotonic() + 60 * given.minutes
    if given.tiny:
        torch.compiler.set_stance("force_eager")  # compilation takes a minute
    bench = Bench(SMALL, TINY) if given.tiny else Bench(Sizes(), {})
    kept = given.sections and given.result.is_file()
    content = json.loads(given.result.read_text(encoding="utf-8")) if kept else {}
    content |= stated(bench) | {"compiled kernels": not given.tiny}
    run(bench, given.sections or list(SECTIONS), end, given.result, content)
    print(json.dumps(content, indent=2))


if __name__ == "__main__":
    main()
