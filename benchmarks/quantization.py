"""Each step that quantizes, on one pruned model, against rounding to the nearest; and which comes first.

    python benchmarks/quantization.py --text wikitext2/valid.txt
    python benchmarks/quantization.py --text wikitext2/valid.txt --part order

Steps and choices see the first three quarters of the text, perplexities are of windows of the last, each read
on its own. Results are written row by row.
"""

import argparse
import json
import platform
import tempfile
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import nn

from shapcut import builtin
from shapcut.adapter import Adapter
from shapcut.calibration import load_calibration, load_held_out
from shapcut.host import Host, build_host, select_adapter
from shapcut.loading import LoadedModel, load
from shapcut.measure import checkpoint_bytes, perplexity
from shapcut.pipeline import prune
from shapcut.plan import RemovalPlan
from shapcut.postprocess import StepContext, StoredModel
from shapcut.recipe import make_recipe
from shapcut.silence import quiet_libraries
from shapcut_plugins.quantizer import linear_layers

MODEL = "demo:smollm2-135m"
REMOVED = (4, 5, 13, 14, 17, 26)
RESULT = Path(__file__).parent / "results" / "quantization.json"
WINDOWS, LENGTH = 80, 256
CALIBRATION_WINDOWS = 64
STEPS = (
    ("compressed-tensors:scheme=W4A16,group_size=64", 4, 64),
    ("compressed-tensors:scheme=W4A16,group_size=32", 4, 32),
    ("compressed-tensors:scheme=W4A16,group_size=64,algorithm=rtn", 4, 64),
    ("compressed-tensors:scheme=W8A8", 8, None),
    ("torchao:kind=int8", 8, None),
    ("torchao:kind=int4,group_size=32", 4, 32),
    ("bitsandbytes:kind=nf4", 4, 64),
    ("bitsandbytes:kind=int8", 8, None),
    ("auto-gptq:bits=4,group_size=64", 4, 64),
    ("gptq:bits=4,group_size=64", 4, 64),
)
ORDER_BUDGET, ORDER_STEP = 120, "bitsandbytes:kind=nf4"


def round_to_nearest(model: nn.Module, bits: int, group_size: int | None) -> None:
    """Replace each linear layer's weights by the nearest of 2**bits evenly spaced values, a scale a group."""
    top = 2 ** (bits - 1) - 1
    for _, layer in linear_layers(model):
        weight = layer.weight.data
        groups = weight.reshape(weight.shape[0], -1, group_size or weight.shape[1])
        scales = groups.abs().amax(dim=-1, keepdim=True).clamp_min(1e-12) / (top + 0.5)
        layer.weight.data = ((groups / scales).round().clamp(-top - 1, top) * scales).view_as(weight)


class Bench:
    """The pruned model and the texts, and what is measured on them."""

    def __init__(self, text: str) -> None:
        self.host: Host = build_host(core=[builtin])
        self.loaded: LoadedModel = load(MODEL)
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
            model = load(MODEL).model
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
                step.check(model)
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

    def nearest(self, bits: int, group_size: int | None) -> float:
        """Perplexity after rounding to the nearest."""
        model = self.pruned()
        round_to_nearest(model, bits, group_size)
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
    nearest: dict[str, float] = {}
    rows: list[dict[str, Any]] = []
    for spec, bits, group in STEPS:
        key = f"{bits} bits, " + (f"groups of {group}" if group else "whole rows")
        if key not in nearest:
            nearest[key] = bench.nearest(bits, group)
        rows.append(bench.step(spec) | {"nearest": key, "nearest_perplexity": nearest[key]})
        print(rows[-1], flush=True)
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
    model = load(MODEL).model
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
