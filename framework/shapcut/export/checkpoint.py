"""Write a pruned model's checkpoint, verified by its own library before it appears."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from shapcut.export.beside import copy_beside
from shapcut.export.safetensors_cut import replace_weights
from shapcut.game.plan import RemovalPlan
from shapcut.measurement.sizes import checkpoint_bytes
from shapcut.models.adapter import Adapter
from shapcut.models.loading import is_offloaded, load
from shapcut.models.source import ModelSource
from shapcut.support.errors import ShapcutError, VerificationError
from shapcut.support.files import copy_tree, new_directory, write_text_atomically
from shapcut.support.quiet import one_line, quiet_libraries

FP32_TOLERANCE = 1e-4
"""Largest accepted difference between logits in fp32 or fp64."""

HALF_PRECISION_STEPS = 4
"""In 16-bit the accepted difference, in rounding steps of the largest logit."""


@dataclass(frozen=True, slots=True)
class CheckpointReport:
    """A written checkpoint and its agreement with the bypassed original.

    Attributes:
        directory: the checkpoint's directory, or the GGUF file.
        weight_bytes: size of the weight files.
        total_bytes: size of all files.
        max_difference: largest absolute difference from the expected logits.
        tolerance: largest accepted difference.
        library: distribution that loaded it.
    """

    directory: Path
    weight_bytes: int
    total_bytes: int
    max_difference: float
    tolerance: float
    library: str


def write_checkpoint(
    adapter: Adapter,
    model: nn.Module,
    tokenizer: Any,
    out: Path,
    *,
    plan: RemovalPlan,
    recipe_text: str,
    card: str,
    verify_ids: Tensor,
    expected_logits: Tensor,
    stored: Path | None = None,
    source: Path | None = None,
    cut_files_of: nn.Module | None = None,
    tolerance: float | None = None,
    before_it_appears: Callable[[CheckpointReport], None] | None = None,
) -> CheckpointReport:
    """Write a checkpoint, reload it with its own library, compare, and only then let it appear.

    Args:
        adapter: the model's adapter.
        model: the pruned model.
        tokenizer: its tokenizer, or None.
        out: a new or empty directory.
        plan: the removal plan, written as plan.json.
        recipe_text: written as recipe.yaml.
        card: written as README.md.
        verify_ids: token ids, shape (batch, length).
        expected_logits: of the original with the removed players bypassed (or of the model after its last
            post-pruning step), shape (batch, length, vocabulary).
        stored: a directory with the saved model, whose files are copied, or None.
        source: the checkpoint that the model was loaded from, if it is a directory of transformers; what lies
            beside its weights is copied.
        cut_files_of: the pruned model as `Adapter.remove` left it, if the files of ``source`` are to be cut
            where that is possible; they then take the values that ``stored`` has otherwise.
        tolerance: largest accepted difference; None: by dtype, see `default_tolerance`.
        before_it_appears: called after verification, right before ``out`` appears.

    Raises:
        VerificationError: if the reloaded logits differ or weights are missing; nothing is left at ``out``.
        ShapcutError: if a file cannot be written.
    """
    try:
        with new_directory(out) as directory:
            with quiet_libraries():
                if not _cut_files(adapter, cut_files_of, source, directory, stored):
                    _write_weights(adapter, model, directory, stored)
                _write_beside(source, tokenizer, directory)
            plan.write(directory / "plan.json")
            write_text_atomically(directory / "recipe.yaml", recipe_text)
            write_text_atomically(directory / "README.md", card)
            reloaded = _reloaded(adapter, directory, model)
            difference, accepted = require_same_logits(
                adapter, reloaded, verify_ids, expected_logits, tolerance
            )
            del reloaded
            total = sum(file.stat().st_size for file in directory.rglob("*") if file.is_file())
            weights = checkpoint_bytes(directory)
            report = CheckpointReport(out, weights, total, difference, accepted, adapter.library)
            if before_it_appears is not None:
                before_it_appears(report)
    except OSError as error:
        raise ShapcutError(f"cannot write {out}: {one_line(error)}") from error
    return report


def _cut_files(
    adapter: Adapter, cut: nn.Module | None, source: Path | None, directory: Path, stored: Path | None
) -> bool:
    """Cut a checkpoint as files, if that is possible; whether it was."""
    if cut is None or source is None or adapter.files_objection(cut, source):
        return False
    adapter.save_files(cut, source, directory)
    if stored is None or replace_weights(directory, stored):
        return True
    for file in directory.iterdir():
        file.unlink()
    return False


def _write_weights(adapter: Adapter, model: nn.Module, directory: Path, stored: Path | None) -> None:
    """Copy a saved model, or save it from memory."""
    if stored is not None:
        copy_tree(stored, directory)
    else:
        save(adapter, model, directory)


def save(adapter: Adapter, model: nn.Module, directory: Path) -> None:
    """Save a model with its adapter; errors from its library become one line.

    Raises:
        ShapcutError: for example on a full disk, which each library reports differently.
    """
    try:
        adapter.save(model, directory)
    except (ShapcutError, OSError):
        raise
    except Exception as error:
        raise ShapcutError(f"cannot save the model in {directory}: {one_line(error)}") from error


def _write_beside(source: Path | None, tokenizer: Any, directory: Path) -> None:
    """Copy what lies beside the original's weights; save the tokenizer if its files do not lie there."""
    if source is not None:
        copy_beside(source, directory)
    if tokenizer is not None and not (directory / "tokenizer_config.json").is_file():
        tokenizer.save_pretrained(directory)


def default_tolerance(dtype: torch.dtype, largest_logit: float) -> float:
    """Largest difference of one model's logits due to the order of its arithmetic.

    Args:
        dtype: the coarsest dtype among the model's weights.
        largest_logit: largest absolute value among the expected logits.
    """
    if torch.finfo(dtype).bits > 16:  # noqa: PLR2004 - bfloat16 and float16 have 16
        return FP32_TOLERANCE
    return HALF_PRECISION_STEPS * torch.finfo(dtype).eps * max(largest_logit, 1.0)


def _reloaded(adapter: Adapter, directory: Path, cut: nn.Module) -> nn.Module:
    """A written model, whose blocks stay on disk until they are used if those of the cut one do."""
    try:
        with quiet_libraries():
            if not is_offloaded(cut):
                return adapter.load(directory)
            device = str(adapter.input_device(cut))
            return load(ModelSource.find(str(directory), device=device, offload="disk")).model
    except Exception as error:
        raise VerificationError(f"the written checkpoint cannot be loaded: {one_line(error)}") from error


def require_same_logits(
    adapter: Adapter,
    reloaded: nn.Module,
    verify_ids: Tensor,
    expected: Tensor,
    tolerance: float | None = None,
) -> tuple[float, float]:
    """(largest difference, accepted difference) of a written model's logits.

    Raises:
        VerificationError: if the difference is larger.
    """
    with quiet_libraries():
        logits = adapter.logits(reloaded, verify_ids.to(adapter.input_device(reloaded)))
    if logits.shape != expected.shape:
        raise VerificationError(
            f"the written checkpoint gives logits of shape {tuple(logits.shape)}, expected "
            f"{tuple(expected.shape)}"
        )
    wanted, found = expected.detach().cpu().double(), logits.detach().cpu().double()
    difference = float((found - wanted).abs().max())
    accepted = tolerance
    if accepted is None:
        accepted = default_tolerance(_coarsest_dtype(reloaded, expected), float(wanted.abs().max()))
    if not math.isfinite(difference) or difference > accepted:
        raise VerificationError(
            f"the written checkpoint differs from the bypassed original: logits by {difference:.3g}, "
            f"accepted {accepted:.3g}; nothing was written"
        )
    return difference, accepted


def _coarsest_dtype(model: nn.Module, logits: Tensor) -> torch.dtype:
    dtypes = {tensor.dtype for tensor in model.parameters() if tensor.is_floating_point()} | {logits.dtype}
    return max(dtypes, key=lambda dtype: torch.finfo(dtype).eps)
