"""Quantization in a separate process, for libraries that modify the process importing them."""

import os
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from shapcut.contracts import (
    ShapcutError,
    StepContext,
    StoredModel,
    VerificationError,
    read_json,
    run_child,
    write_json_atomically,
)

KERNEL_TOLERANCE = 0.1
"""Accepted difference between logits of two kernels on the same quantized weights, 16-bit kernels included:
root mean square, as a share of the logits' standard deviation."""

_COMPARED_SAMPLES = 2
_SOURCE, _TARGET, _TOKENS, _LOGITS, _OPTIONS, _LOG = (
    "unquantized",
    "quantized",
    "calibration.safetensors",
    "logits.safetensors",
    "options.json",
    "log.txt",
)


@dataclass(frozen=True, eq=False, slots=True)
class Job:
    """The input of the other process: a directory with all its files.

    Attributes:
        directory: of the job.
        options: the step's.
        calibration: token ids, shape (samples, length).
    """

    directory: Path
    options: Mapping[str, Any]
    calibration: Tensor

    @property
    def source(self) -> Path:
        """The checkpoint to quantize, with its tokenizer."""
        return self.directory / _SOURCE

    @property
    def target(self) -> Path:
        """The directory for the quantized checkpoint."""
        return self.directory / _TARGET

    def write_logits(self, model: Any) -> None:
        """Store the logits of the library's own quantized model on the first samples, for verification."""
        with torch.inference_mode():
            device = next(model.parameters()).device
            logits = model(input_ids=self.calibration[:_COMPARED_SAMPLES].to(device), use_cache=False).logits
        save_file({"logits": logits.float().cpu().contiguous()}, self.directory / _LOGITS)


def serve(directory: Path, work: Callable[[Job], None]) -> None:
    """Do a job in this process; errors go to the log, whose last line the other process shows."""
    options = read_json(directory / _OPTIONS)
    calibration = load_file(directory / _TOKENS)["input_ids"]
    work(Job(directory, options, calibration))


def quantized_elsewhere(
    module: str, model: nn.Module, options: Mapping[str, Any], context: StepContext
) -> Path:
    """Save a model, let ``module`` quantize it in another process, and return the result's directory.

    Raises:
        ShapcutError: with the last line that the process wrote, if it fails.
    """
    job = Job(context.directory, options, context.calibration)
    for directory in (job.source, job.target):
        shutil.rmtree(directory, ignore_errors=True)
    context.adapter.save(model, job.source)
    if context.tokenizer is not None:
        context.tokenizer.save_pretrained(job.source)
    save_file({"input_ids": context.calibration.cpu().contiguous()}, context.directory / _TOKENS)
    device = str(context.adapter.input_device(model))
    write_json_atomically(context.directory / _OPTIONS, {"device": device, **options})
    log = context.directory / _LOG
    with log.open("wb") as output:
        paths = os.pathsep.join(str(Path(place).resolve()) for place in sys.path)
        status = run_child(
            module,
            [str(context.directory.resolve())],
            context.directory,  # some libraries write logs where they are started
            output=output,
            environment=os.environ | {"PYTHONPATH": paths},
        )
    if status:
        written = log.read_text(encoding="utf-8", errors="replace").split("\n")
        last = next((line.strip() for line in reversed(written) if line.strip()), f"status {status}")
        raise ShapcutError(f"{module.rpartition('.')[2]} failed: {last} (see {log})")
    return job.target


def checked_result(directory: Path, model: nn.Module, context: StepContext) -> StoredModel:
    """Load another process's checkpoint in plain transformers and compare it with that process's model.

    Raises:
        VerificationError: if the logits differ by more than `KERNEL_TOLERANCE`.
    """
    return loaded_as_expected(directory, model, context, load_file(context.directory / _LOGITS)["logits"])


def loaded_as_expected(
    directory: Path, model: nn.Module, context: StepContext, expected: Tensor
) -> StoredModel:
    """Load a quantized checkpoint in plain transformers and require the expected logits.

    Args:
        directory: the checkpoint.
        model: the unquantized model, for its device.
        context: the step's.
        expected: logits of the first calibration samples.

    Raises:
        VerificationError: if the logits differ by more than `KERNEL_TOLERANCE`.
    """
    device = context.adapter.input_device(model)
    loaded = context.adapter.load(directory).requires_grad_(requires_grad=False)
    loaded = loaded if device.type == "cpu" else loaded.to(device)
    found = first_logits(loaded, context)
    difference = (
        float((found - expected).square().mean() / (expected - expected.mean()).square().mean()) ** 0.5
    )
    if not difference <= KERNEL_TOLERANCE:
        raise VerificationError(
            f"the quantized checkpoint gives unexpected logits in transformers: they differ by "
            f"{difference:.1%}, accepted {KERNEL_TOLERANCE:.0%}"
        )
    return StoredModel(loaded, directory)


def first_logits(model: nn.Module, context: StepContext) -> Tensor:
    """Logits on the first calibration samples, float32, on the CPU."""
    ids = context.calibration[:_COMPARED_SAMPLES].to(context.adapter.input_device(model))
    return context.adapter.logits(model, ids).float().cpu()
