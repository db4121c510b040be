"""Tiny random models of several kinds, whole and cut, in an inference engine beside transformers.

    python benchmarks/serving/engines.py --engine vllm --python .venv-vllm/bin/python
    python benchmarks/serving/engines.py --engine llama.cpp --gguf model.Q4_1.gguf:5,12,13

Results are written row by row, in place of earlier ones. A step of shapcut quantizes the cut model and, as a
control, the whole one.
"""

import argparse
import json
import os
import platform
import shutil
import sys
import tempfile
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import torch
import transformers

import shapcut
from shapcut.export.gguf_cut import write_gguf_cut
from shapcut.game.plan import RemovalPlan
from shapcut.host.host import Host, build_host
from shapcut.host.open_model import find_model
from shapcut.models.gguf_header import read_gguf_header
from shapcut.pipeline.prune import apply_plan
from shapcut.recipe.recipe import make_recipe
from shapcut.serving.answer import Answer, Refusal, Request
from shapcut.serving.check import ServingQuestion, check_serving
from shapcut.serving.engine import Engine
from shapcut.serving.process import Interpreter
from shapcut.serving.record import ServingCheck
from shapcut.serving.workers.transformers_engine import answer
from shapcut.support.files import write_json_atomically
from shapcut.support.progress import Silent

RESULT = Path(__file__).parents[1] / "results" / "engines.json"
TOKENIZER = Path(__file__).parents[1] / "zoo" / "models" / "llama"
BLOCKS, REMOVED, VOCABULARY = 8, (2, 5), 512
EXPERTS = 8
TIMEOUT = 3600.0
_LITTLE_TEXT = {"samples": 8, "sequence_length": 64, "finalist_samples": 0, "held_out_samples": 2}
"""Options of the runs, whose own measurements do not matter here."""

_ATTENTION: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": BLOCKS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 512,
    "initializer_range": 0.1,
    "tie_word_embeddings": False,
}

_MIXTURE = {"num_local_experts": EXPERTS, "num_experts_per_tok": 2}


class Kind(NamedTuple):
    """A kind of model.

    Attributes:
        label: for the table.
        family: model type of transformers.
        values: of its config, beyond those that all share.
        step: that quantizes it, or None.
        dtype: of the computation.
        experts: whether experts are removed, from every block, instead of blocks.
    """

    label: str
    family: str
    values: dict[str, Any]
    step: str | None = None
    dtype: str = "float32"
    experts: bool = False


def _mixed(*kinds: str) -> list[str]:
    """Kinds of layers, repeated over all blocks."""
    return [kinds[block % len(kinds)] for block in range(BLOCKS)]


KINDS = {
    "llama": Kind("Llama", "llama", {}),
    "qwen3": Kind("Qwen3", "qwen3", {}),
    "qwen3-windows": Kind(
        "Qwen3, sliding windows in some layers",
        "qwen3",
        {
            "use_sliding_window": True,
            "sliding_window": 16,
            "layer_types": _mixed("full_attention", "sliding_attention"),
        },
    ),
    "gemma3": Kind("Gemma 3", "gemma3_text", {"sliding_window": 16, "query_pre_attn_scalar": 32}),
    "mixtral": Kind("Mixtral", "mixtral", _MIXTURE),
    "mixtral-experts": Kind(
        f"Mixtral, {EXPERTS} → {EXPERTS - len(REMOVED)} experts", "mixtral", _MIXTURE, experts=True
    ),
    "lfm2": Kind(
        "LFM2",
        "lfm2",
        {
            "layer_types": _mixed("conv", "full_attention"),
            "block_auto_adjust_ff_dim": False,
            **dict.fromkeys(("conv_dim", "conv_dim_out", "block_dim"), 128),  # which vLLM reads
        },
    ),
    "mamba": Kind(
        "Mamba", "mamba", {"state_size": 16, "num_heads": None, "head_dim": None, "intermediate_size": 256}
    ),
    "falcon-h1": Kind(
        "Falcon-H1",
        "falcon_h1",
        {"mamba_d_ssm": 128, "mamba_n_heads": 4, "mamba_d_head": 32, "mamba_d_state": 16},
    ),
    "gptq": Kind("Llama, `gptq`", "llama", {}, "gptq:bits=4,group_size=32,samples=8", "bfloat16"),
    "w4a16": Kind(
        "Llama, W4A16", "llama", {}, "compressed-tensors:scheme=W4A16,group_size=32,samples=8", "bfloat16"
    ),
    "w8a8": Kind("Llama, W8A8", "llama", {}, "compressed-tensors:scheme=W8A8,samples=8", "bfloat16"),
    "fp8": Kind("Llama, FP8", "llama", {}, "compressed-tensors:scheme=FP8,samples=8", "bfloat16"),
}


class InThisProcess:
    """transformers without a process of its own, which would take most of the time."""

    def ask(self, engine: Engine, request: Request, timeout: float) -> Answer | Refusal:
        """See `Interpreter.ask`."""
        del engine, timeout
        return Answer.model_validate(json.loads(json.dumps(answer(request.model_dump()))))


def build(kind: Kind, place: Path, host: Host) -> tuple[Path, Path]:
    """A random model and its cut, in directories."""
    values = {name: value for name, value in (_ATTENTION | kind.values).items() if value is not None}
    config: Any = transformers.AutoConfig.for_model(kind.family, **values)
    torch.manual_seed(0)
    auto: Any = transformers.AutoModelForCausalLM
    model = auto.from_config(config, dtype=torch.float32).eval()
    whole, cut = place / "whole", place / "cut"
    model.save_pretrained(whole)
    shapcut.apply(_plan(kind), model, any_model=True).save_pretrained(cut)
    for directory in (whole, cut):
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copyfile(TOKENIZER / name, directory / name)
    if kind.step is None:
        return whole, cut
    return _quantized(whole, kind.step, host), _quantized(cut, kind.step, host)


def _plan(kind: Kind) -> RemovalPlan:
    """Remove some blocks, or these of the experts of every block."""
    if not kind.experts:
        return RemovalPlan.removing(REMOVED, BLOCKS)
    gone = [block * EXPERTS + expert for block in range(BLOCKS) for expert in REMOVED]
    return RemovalPlan.removing(gone, BLOCKS * EXPERTS, granularity="expert")


def _quantized(model: Path, step: str, host: Host) -> Path:
    blocks = json.loads((model / "config.json").read_text(encoding="utf-8"))["num_hidden_layers"]
    out = model.with_name(f"{model.name}-quantized")
    recipe = make_recipe({"model": str(model), "remove": 1, "then": [step], **_LITTLE_TEXT})
    apply_plan(recipe, RemovalPlan.removing((), blocks), out, host)
    return out


def row(check: ServingCheck, label: str) -> dict[str, Any]:
    """A row of the result file."""
    content: dict[str, Any] = json.loads(
        check.model_dump_json(
            exclude={
                "result": True,
                "text": True,
                "original": {"greedy", "model"},
                "cut": {"greedy", "model"},
            }
        )
    )
    return {"label": label, **content, "sentence": check.sentence}


def measure(name: str, arguments: argparse.Namespace, host: Host) -> dict[str, Any]:
    """Check one kind of model, or one ``FILE.gguf:BLOCKS``, in an engine."""
    with tempfile.TemporaryDirectory() as directory:
        kind = KINDS.get(name) or Kind(Path(name.partition(":")[0]).name, "gguf", {})
        made = cut_gguf(name, Path(directory)) if kind.family == "gguf" else None
        whole, cut = made or build(kind, Path(directory), host)
        question = ServingQuestion(
            result=name,
            name=arguments.engine,
            engine=host.engines.create(arguments.engine),
            interpreter=Interpreter(arguments.python),
            reference=InThisProcess(),
            dtype=kind.dtype,
            threads=1,
            timeout=TIMEOUT,
        )
        check = check_serving(question, find_model(host, str(cut)), find_model(host, str(whole)), Silent())
        return row(check, kind.label)


def cut_gguf(name: str, place: Path) -> tuple[Path, Path]:
    """A GGUF file, and its cut."""
    file, _, blocks = name.rpartition(":")
    header = read_gguf_header(Path(file))
    assert header.block_count is not None
    plan = RemovalPlan.removing([int(block) for block in blocks.split(",")], header.block_count)
    out = place / "cut.gguf"
    write_gguf_cut(Path(file), plan.kept, out)
    return Path(file), out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--engine", required=True)
    parser.add_argument("--python", help="the Python that has the engine")
    parser.add_argument("--kinds", nargs="*", choices=list(KINDS), default=[])
    parser.add_argument("--gguf", nargs="*", metavar="FILE:BLOCKS", default=[])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    host = build_host()
    for name in [*(arguments.kinds or ([] if arguments.gguf else KINDS)), *arguments.gguf]:
        found = measure(name, arguments, host)
        print(found["label"], found["sentence"], file=sys.stderr, flush=True)
        write_row(found)


def write_row(found: dict[str, Any]) -> None:
    """Put a row into the result file, in place of an earlier one of the same kind and engine."""
    known = json.loads(RESULT.read_text(encoding="utf-8")) if RESULT.exists() else {"rows": []}
    rows = {(one["label"], one["engine"]): one for one in known["rows"]}
    rows[found["label"], found["engine"]] = found
    content = {
        "command": "make serve-vllm",
        "hardware": f"1 thread, {platform.machine()}, {os.cpu_count()} processors",
        "versions": {name: metadata.version(name) for name in ("torch", "transformers")},
        "models": f"{BLOCKS} blocks, {len(REMOVED)} removed; random weights",
        "rows": list(rows.values()),
    }
    write_json_atomically(RESULT, content)


if __name__ == "__main__":
    main()
