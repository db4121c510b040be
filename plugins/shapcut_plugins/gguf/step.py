"""The step that writes a GGUF file beside the checkpoint."""

import copy
import shutil
from pathlib import Path
from typing import Any, ClassVar, Literal

from torch import Tensor, nn

from shapcut.contracts import (
    Adapter,
    InputError,
    PostProcessor,
    Stage,
    StepContext,
    StoredModel,
    VerificationError,
    gguf_objection,
    load_as,
    read_gguf_header,
    write_gguf_cut,
    write_json_atomically,
)
from shapcut_plugins.gguf.converter import convert, find_converter
from shapcut_plugins.gguf.llama_cpp import has_llama_cpp, perplexity
from shapcut_plugins.gguf.weights import LAYOUTS, ModelWeights

Type = Literal["f32", "f16", "bf16", "q8_0"]

TOLERANCES = {"f32": 1e-4, "f16": 0.01, "bf16": 0.05, "q8_0": 0.1}
"""Accepted difference of logits, root mean square, as a share of their standard deviation."""

ENGINES_TOLERANCE = 0.1
"""Accepted difference of the perplexities in llama.cpp and transformers, as a share."""

_COMPARED_SAMPLES, _COMPARED_TOKENS = 2, 48
_MAGIC = b"GGUF"


class Gguf(PostProcessor):
    """Write the result as a GGUF file too, for llama.cpp, beside the checkpoint.

    Metadata and tokenizer are those of the GGUF file that the model comes from; for other models,
    llama.cpp's converter writes them, in a process of its own. transformers then reads the file, and its
    logits must be the model's; where xllamacpp is installed, llama.cpp must give the same perplexity too.

    Args:
        type: number format of the matrices: f32, f16, bf16 or q8_0; vectors stay in float32.
        file: name of the file in the checkpoint's directory.
        converter: path of convert_hf_to_gguf.py; default: the variable SHAPCUT_GGUF_CONVERTER, else on PATH.
    """

    stage: ClassVar[Stage] = "export"
    is_last: ClassVar[bool] = True
    whole_blocks: ClassVar[bool] = True

    def __init__(
        self,
        type: Type = "f16",  # noqa: A002 - the option's name
        file: str = "model.gguf",
        converter: str | None = None,
    ) -> None:
        if Path(file).name != file or not file.endswith(".gguf"):
            raise ValueError(f"file={file} is not the name of a .gguf file")
        self.type: Type = type
        self.file = file
        self.converter = converter

    def check_source(self, source: Path | None) -> None:
        """Refuse a GGUF file that cannot be followed, or another model without the converter."""
        if source is None or not _is_gguf(source):
            find_converter(self.converter)
            return
        header = read_gguf_header(source)
        if objection := gguf_objection(header):
            raise InputError(f"gguf: {source} cannot be cut: {objection}; leave out this step")
        if header.big_endian or header.architecture not in LAYOUTS:
            raise InputError(
                f"gguf: the weights of {header.architecture} are not known to correspond one to one; known "
                f"are {', '.join(LAYOUTS)}; leave out this step"
            )

    def check(self, model: nn.Module, adapter: Adapter) -> None:  # noqa: ARG002 - the model says it all
        """Refuse models outside transformers."""
        if not type(model).__module__.startswith("transformers."):
            raise InputError(
                f"gguf: a {type(model).__name__} is not a model of transformers; leave out this step"
            )

    def run(self, model: nn.Module, context: StepContext) -> StoredModel:
        """Save the model, write the file beside it, and compare what transformers reads from it."""
        checkpoint = context.directory / "checkpoint"
        shutil.rmtree(checkpoint, ignore_errors=True)
        checkpoint.mkdir()
        context.adapter.save(model, checkpoint)
        target, source = checkpoint / self.file, context.source
        if source is not None and _is_gguf(source):
            architecture = read_gguf_header(source).architecture
            weights = ModelWeights.of(model, architecture, self.type)
            write_gguf_cut(source, context.plan.kept, target, weights)
        else:
            if context.tokenizer is not None:
                context.tokenizer.save_pretrained(checkpoint)
            convert(find_converter(self.converter), checkpoint, target, self.type, context.directory)
        self._verify(target, model, context)
        return StoredModel(model, checkpoint)

    def _verify(self, target: Path, model: nn.Module, context: StepContext) -> None:
        known: Any = model
        ids = context.calibration[:_COMPARED_SAMPLES]
        try:
            loaded = load_as(target, copy.deepcopy(known.config))
        except Exception as error:
            raise VerificationError(f"the written {target.name} cannot be loaded: {error}") from error
        expected = _logits(model, ids, context)
        found = _logits(loaded.to(context.adapter.input_device(model)), ids, context)
        share = (found - expected).square().mean() / (expected - expected.mean()).square().mean()
        difference = float(share) ** 0.5
        report = {"file": target.name, "bytes": target.stat().st_size, "difference of logits": difference}
        if not difference <= TOLERANCES[self.type]:
            raise VerificationError(
                f"the written {target.name} gives other logits than the model: they differ by "
                f"{difference:.1%}, accepted {TOLERANCES[self.type]:.1%}"
            )
        context.reporter.say(f"{target.name}: read by transformers, its logits differ by {difference:.2%}")
        if has_llama_cpp():
            ids = ids[:, :_COMPARED_TOKENS].cpu()
            there = perplexity(target, ids.tolist(), expected.shape[-1], context.directory)
            here = _perplexity(expected[:, : ids.shape[1]], ids)
            report |= {"perplexity in transformers": here, "perplexity in llama.cpp": there}
            _require_same_perplexity(target.name, here, there)
            context.reporter.say(
                f"{target.name}: perplexity {there:.3f} in llama.cpp, {here:.3f} in transformers"
            )
        write_json_atomically(context.directory / "gguf.json", report)


def _logits(model: nn.Module, ids: Tensor, context: StepContext) -> Tensor:
    device = context.adapter.input_device(model)
    return context.adapter.logits(model, ids.to(device)).float().cpu()


def _perplexity(logits: Tensor, ids: Tensor) -> float:
    losses = nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
    return float(losses.exp())


def _require_same_perplexity(name: str, here: float, there: float) -> None:
    if not abs(there / here - 1.0) <= ENGINES_TOLERANCE:
        raise VerificationError(
            f"the written {name} has the perplexity {there:.4g} in llama.cpp and {here:.4g} in transformers, "
            f"which differ by more than {ENGINES_TOLERANCE:.0%}"
        )


def _is_gguf(source: Path) -> bool:
    if not source.is_file():
        return False
    with source.open("rb") as opened:
        return opened.read(len(_MAGIC)) == _MAGIC
