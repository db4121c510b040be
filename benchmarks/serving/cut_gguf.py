"""What a cut of a GGUF file costs, and what llama.cpp makes of the result beside transformers.

    pip install xllamacpp
    python benchmarks/serving/cut_gguf.py FILE.gguf:5,12,13 [FILE.gguf:4,9 ...]     some minutes a model

The blocks after the colon are removed. Perplexity is that of the same few tokens in both engines, of the
whole model as a control; in transformers the blocks are bypassed in the dequantized model. The bytes of all
kept tensors are compared as the gguf package reads them.
"""

import argparse
import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from statistics import median
from typing import Any

import gguf
import torch
from llama_server import LlamaServer

from shapcut.api import load_game
from shapcut.export.gguf_cut import write_gguf_cut
from shapcut.game.plan import RemovalPlan
from shapcut.measurement.sizes import peak_memory_bytes, restart_peak_memory
from shapcut.models.gguf_header import read_gguf_header
from shapcut.support.files import write_json_atomically
from shapcut.valuation.model_game import ModelGame

RESULT = Path(__file__).parents[1] / "results" / "gguf.json"
SAMPLES, LENGTH, SEED = 3, 96, 0
PROMPT, NEW_TOKENS, REPEATS = 128, 64, 3


def of_model(source: Path, removed: Sequence[int], place: Path) -> dict[str, Any]:
    """The figures of one file."""
    header = read_gguf_header(source)
    blocks, vocabulary = header.block_count, header.by_name["tokenizer.ggml.tokens"].count
    assert blocks is not None
    assert vocabulary is not None
    plan = RemovalPlan.removing(removed, blocks)
    target = place / "cut.gguf"
    cost = cost_of(source, plan, target)
    game = load_game(str(source), samples=SAMPLES, sequence_length=LENGTH, seed=SEED, dtype="float32")
    return {
        "model": source.name,
        "blocks": blocks,
        "removed": list(plan.removed),
        "bytes": {"whole": source.stat().st_size, "cut": target.stat().st_size},
        **cost,
        "tensors equal byte for byte": equal_tensors(source, plan, target),
        "perplexity": {
            "transformers": in_transformers(game, plan),
            "llama.cpp": in_llama_cpp(game, {"whole": source, "cut": target}, vocabulary),
        },
        "tokens a second in llama.cpp": speeds(game, {"whole": source, "cut": target}, vocabulary),
    }


def cost_of(source: Path, plan: RemovalPlan, target: Path) -> dict[str, Any]:
    """Time and memory of cutting and comparing, beside a copy of the file."""
    began = time.perf_counter()
    shutil.copyfile(source, target)
    copied = time.perf_counter() - began
    target.unlink()
    restart_peak_memory()
    before = peak_memory_bytes() or 0
    began = time.perf_counter()
    write_gguf_cut(source, plan.kept, target)
    return {
        "seconds": {"cut and comparison": time.perf_counter() - began, "copy": copied},
        "memory of the cut in bytes": (peak_memory_bytes() or 0) - before,
    }


def equal_tensors(source: Path, plan: RemovalPlan, target: Path) -> str:
    """How many kept tensors are equal, as ``218 of 218``."""
    before = {tensor.name: tensor for tensor in gguf.GGUFReader(source).tensors}
    after = gguf.GGUFReader(target).tensors
    equal = sum(
        (found.data == before[origin(found.name, plan)].data).all()
        and found.tensor_type == before[origin(found.name, plan)].tensor_type
        for found in after
    )
    return f"{equal} of {len(after)}"


def origin(name: str, plan: RemovalPlan) -> str:
    """A tensor's name in the whole model."""
    prefix, _, rest = name.partition(".")
    if prefix != "blk":
        return name
    block, _, rest = rest.partition(".")
    return f"blk.{plan.kept[int(block)]}.{rest}"


def in_transformers(game: ModelGame, plan: RemovalPlan) -> dict[str, float]:
    """Perplexity of the whole model and with the blocks bypassed."""
    found = {}
    for name, kept in (("whole", (*plan.kept, *plan.removed)), ("cut", plan.kept)):
        with game.adapter.bypass(game.model, kept):
            logits = game.adapter.logits(game.model, game.input_ids)[:, :-1]
        targets = game.input_ids[:, 1:]
        found[name] = float(
            torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), targets.flatten()).exp()
        )
    return found


def in_llama_cpp(game: ModelGame, files: dict[str, Path], vocabulary: int) -> dict[str, float]:
    """Perplexity of the same windows."""
    windows = game.input_ids.tolist()
    return {name: LlamaServer(file, vocabulary).perplexity(windows) for name, file in files.items()}


def speeds(game: ModelGame, files: dict[str, Path], vocabulary: int) -> dict[str, dict[str, float]]:
    """The median of runs that alternate between the files."""
    prompt = game.input_ids.flatten().tolist()[:PROMPT]
    servers = {name: LlamaServer(file, vocabulary) for name, file in files.items()}
    runs = [
        {name: server.speed(prompt, NEW_TOKENS) for name, server in servers.items()} for _ in range(REPEATS)
    ]
    return {
        name: {kind: median(run[name][kind] for run in runs) for kind in ("prompt", "decode")}
        for name in files
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("models", nargs="+", metavar="FILE:BLOCKS")
    torch.set_num_threads(1)
    rows = []
    for model in parser.parse_args().models:
        file, _, blocks = model.rpartition(":")
        with tempfile.TemporaryDirectory() as place:
            rows.append(of_model(Path(file), [int(block) for block in blocks.split(",")], Path(place)))
        print(rows[-1], file=sys.stderr)
    names = (f"{Path(row['model']).name}:{','.join(map(str, row['removed']))}" for row in rows)
    content = {
        "command": f"cut_gguf.py {' '.join(names)}",
        "hardware": f"1 thread, {platform.machine()}, {os.cpu_count()} processors",
        "versions": {name: metadata.version(name) for name in ("xllamacpp", "transformers", "gguf")},
        "text": f"{SAMPLES} windows of {LENGTH} tokens of the built-in text",
        "models": rows,
    }
    write_json_atomically(RESULT, content)


if __name__ == "__main__":
    main()
