"""Each step that quantizes, on one pruned model, against rounding to the nearest; and which comes first.

    python benchmarks/quantization.py --text wikitext2/valid.txt
    python benchmarks/quantization.py --text wikitext2/valid.txt --part order

Steps and choices see the first three quarters of the text, perplexities are of windows of the last, each read
on its own. Results are written row by row; rows that the result file has are not measured again.
"""

import argparse
import json
import platform
import tempfile
import time
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from shapcut.data.windows import load_calibration, load_held_out
from shapcut.game.plan import RemovalPlan
from shapcut.host.host import Host, build_host, select_adapter
from shapcut.measurement.perplexity import perplexity
from shapcut.measurement.sizes import checkpoint_bytes
from shapcut.models.adapter import Adapter
from shapcut.models.loading import load
from shapcut.models.source import ModelSource
from shapcut.pipeline.prune import prune
from shapcut.recipe.recipe import make_recipe
from shapcut.steps.step import StepContext, StoredModel
from shapcut.support.quiet import quiet_libraries
from shapcut_plugins.quantize.base import linear_layers


class Grid(NamedTuple):
    """The values that weights are rounded to.

    Attributes:
        bits: of a weight.
        group_size: weights that share a scale; None for a whole row.
        symmetric: whether the values lie around zero, or from the smallest to the largest weight of a group.
    """

    bits: int
    group_size: int | None = None
    symmetric: bool = True

    def __str__(self) -> str:
        groups = f"groups of {self.group_size}" if self.group_size else "whole rows"
        return f"{self.bits} bits, {groups}{'' if self.symmetric else ', asymmetric'}"


MODEL = "demo:smollm2-135m"
REMOVED = (4, 5, 13, 14, 17, 26)
RESULT = Path(__file__).parent / "results" / "quantization.json"
WINDOWS, LENGTH = 80, 256
CALIBRATION_WINDOWS = 64
STEPS = (
    ("gptq:bits=4,group_size=64", Grid(4, 64)),
    ("gptq:bits=4,group_size=32", Grid(4, 32)),
    ("bitsandbytes:kind=nf4", Grid(4, 64)),
    ("bitsandbytes:kind=int8", Grid(8)),
    ("torchao:kind=int8", Grid(8)),
    ("torchao:kind=int4,group_size=32", Grid(4, 32)),
    ("gptq:bits=4,group_size=32,sym=false", Grid(4, 32, symmetric=False)),
    ("auto-gptq:bits=4,group_size=32,sym=false", Grid(4, 32, symmetric=False)),
    ("compressed-tensors:scheme=W4A16,group_size=64", Grid(4, 64)),
    ("compressed-tensors:scheme=W4A16,group_size=64,algorithm=rtn", Grid(4, 64)),
    ("compressed-tensors:scheme=W8A8", Grid(8)),
)
ORDER_BUDGET, ORDER_STEP = 120, "bitsandbytes:kind=nf4"


def round_to_nearest(model: nn.Module, grid: Grid) -> None:
    """Replace each linear layer's weights by the nearest of a grid's values, a scale a group."""
    top = 2 ** (grid.bits - 1) - 1
    for _, layer in linear_layers(model):
        weight = layer.weight.data
        groups = weight.reshape(weight.shape[0], -1, grid.group_size or weight.shape[1])
        low, high = groups.amin(dim=-1, keepdim=True), groups.amax(dim=-1, keepdim=True)
        if grid.symmetric:
            high = torch.maximum(high, -low)
            low = -high
        scales = (high - low).clamp_min(1e-12) / (2**grid.bits - 1)
        middle = torch.zeros_like(low) if grid.symmetric else (low / scales).round() + top + 1
        integers = ((groups / scales).round() - middle).clamp(-top - 1, top)
        layer.weight.data = ((integers + middle) * scales).view_as(weight)


class Bench:
    """The pruned model and the texts, and what is measured on them."""

    def __init__(self, text: str) -> None:
        self.host: Host = build_host()
        self.loaded = load(ModelSource.find(MODEL))
        self.adapter: Adapter = select_adapter(self.host, self.loaded.model)
        tokenizer = self.loaded.tokenizer
        self.test = load_held_out(text, tokenizer, samples=WINDOWS, sequence_length=LENGTH).input_ids
        self.calibration = load_calibration(
            text, tokenizer, samples=CALIBRATION_WINDOWS, sequence_length=LENGTH
        ).input_ids

    def perplexity(self, model: nn.Module) -> float:
        """On the test text."""
        return perplexity(self.adapter, model, self.test).perplexity

    def pruned(self) -> nn.Module:
        """A pruned model of its own for each step."""
        with quiet_libraries():
            model = load(ModelSource.find(MODEL)).model
        return self.adapter.remove(model, REMOVED)

    def step(self, spec: str) -> dict[str, Any]:
        """One row: what a step makes of the pruned model, and how it reloads."""
        step = self.host.postprocessors.create(spec)
        model = self.pruned()
        with tempfile.TemporaryDirectory() as directory:
            context = StepContext(
                adapter=self.adapter,
                plan=RemovalPlan.removing(REMOVED, 30),
                calibration=self.calibration,
                tokenizer=self.loaded.tokenizer,
                directory=Path(directory),
                seed=0,
            )
            begin = time.monotonic()
            with quiet_libraries():
                step.check(model, self.adapter)
                outcome = step.run(model, context)
            seconds = time.monotonic() - begin
            stored = Path(directory) / "written"
            with quiet_libraries():
                if isinstance(outcome, StoredModel):
                    model, stored = outcome.model, outcome.directory
                else:
                    model = outcome
                    self.adapter.save(model, stored)
                reloaded = self.adapter.load(stored)
            ids = self.test[:2]
            difference = (self.adapter.logits(reloaded, ids) - self.adapter.logits(model, ids)).abs().max()
            return {
                "step": spec,
                "perplexity": self.perplexity(reloaded),
                "checkpoint_bytes": checkpoint_bytes(stored),
                "reload_difference": float(difference),
                "seconds": round(seconds, 1),
            }

    def nearest(self, grid: Grid) -> float:
        """Perplexity after rounding to the nearest."""
        model = self.pruned()
        round_to_nearest(model, grid)
        return self.perplexity(model)


def read() -> dict[str, Any]:
    return json.loads(RESULT.read_text(encoding="utf-8")) if RESULT.exists() else {}


def note(**content: Any) -> None:
    RESULT.write_text(json.dumps(read() | content, indent=2) + "\n", encoding="utf-8")


def compare_steps(bench: Bench, text: str) -> None:
    """All steps, and rounding at the same bits and group sizes."""
    names = ("torch", "transformers", "gptqmodel", "llmcompressor", "compressed-tensors", "torchao")
    note(
        text="/".join(Path(text).parts[-2:]),
        model="SmolLM2-135M-Instruct, Q4_1 weights dequantized to float32, 30 blocks",
        removed=list(REMOVED),
        windows=WINDOWS,
        length=LENGTH,
        calibration_tokens=bench.calibration.numel(),
        threads=torch.get_num_threads(),
        machine=platform.machine(),
        versions={name: metadata.version(name) for name in (*names, "bitsandbytes", "auto-gptq")},
    )
    model = bench.pruned()
    with tempfile.TemporaryDirectory() as directory, quiet_libraries():
        bench.adapter.save(model, Path(directory))
        size = checkpoint_bytes(Path(directory))
    note(unquantized={"perplexity": bench.perplexity(model), "checkpoint_bytes": size})
    rows: list[dict[str, Any]] = read().get("steps", [])
    nearest = {row["nearest"]: row["nearest_perplexity"] for row in rows}
    for spec, grid in STEPS:
        if any(row["step"] == spec for row in rows):
            continue
        if str(grid) not in nearest:
            nearest[str(grid)] = bench.nearest(grid)
        row = bench.step(spec) | {"nearest": str(grid), "nearest_perplexity": nearest[str(grid)]}
        print(row, flush=True)
        rows.append(row)
        note(steps=rows)


def compare_order(bench: Bench, text: str) -> None:
    """Choose six blocks on the whole model and then quantize, or on the quantized model; one budget."""
    rows = []
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        quantized = _quantized_whole(bench, root)
        for name, source, then in (
            ("prune, then quantize", MODEL, (ORDER_STEP,)),
            ("quantize, then prune", str(quantized), ()),
        ):
            recipe = make_recipe(
                {
                    "model": source,
                    "remove": len(REMOVED),
                    "budget": ORDER_BUDGET,
                    "samples": 10,
                    "sequence_length": 128,
                    "finalist_samples": 0,
                    "held_out_samples": 4,
                    "calibration": text,
                    "then": then,
                }
            )
            begin = time.monotonic()
            out = root / name.replace(", ", "-").replace(" ", "-")
            result = prune(recipe, out, bench.host)
            seconds = time.monotonic() - begin
            with quiet_libraries():
                model = bench.adapter.load(out)
            row = {
                "order": name,
                "removed": list(result.plan.removed),
                "perplexity": bench.perplexity(model),
                "checkpoint_bytes": result.checkpoint.weight_bytes,
                "seconds": round(seconds, 1),
            }
            rows.append(row)
            print(row, flush=True)
            note(order={"step": ORDER_STEP, "budget": ORDER_BUDGET, "tokens": 1280, "rows": rows})


def _quantized_whole(bench: Bench, root: Path) -> Path:
    """A checkpoint of the whole model, quantized."""
    step = bench.host.postprocessors.create(ORDER_STEP)
    model = load(ModelSource.find(MODEL)).model
    work = root / "work"
    work.mkdir()
    plan = RemovalPlan.removing((), 30)
    context = StepContext(
        bench.adapter, plan, bench.calibration, tokenizer=bench.loaded.tokenizer, directory=work, seed=0
    )
    quantized: Any = step.run(model, context)
    bench.adapter.save(quantized, root / "quantized")
    bench.loaded.tokenizer.save_pretrained(root / "quantized")
    return root / "quantized"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--text", required=True)
    parser.add_argument("--part", choices=("steps", "order"), default="steps")
    given = parser.parse_args()
    bench = Bench(given.text)
    if given.part == "steps":
        compare_steps(bench, given.text)
    else:
        compare_order(bench, given.text)


if __name__ == "__main__":
    main()
