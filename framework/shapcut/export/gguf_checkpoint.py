"""Write a pruned GGUF file, verified by the library that loads it before it appears."""

import copy
from collections.abc import Callable
from pathlib import Path

from torch import Tensor, nn

from shapcut.export.checkpoint import CheckpointReport, require_same_logits
from shapcut.export.gguf_cut import write_gguf_cut
from shapcut.game.plan import RemovalPlan
from shapcut.models.adapter import Adapter
from shapcut.models.gguf import load_as
from shapcut.support.errors import ShapcutError, VerificationError
from shapcut.support.files import new_file
from shapcut.support.quiet import one_line


def write_gguf(
    adapter: Adapter,
    model: nn.Module,
    source: Path,
    out: Path,
    *,
    plan: RemovalPlan,
    verify_ids: Tensor,
    expected_logits: Tensor,
    before_it_appears: Callable[[CheckpointReport], None],
) -> CheckpointReport:
    """Cut a GGUF file, compare bytes and logits, and only then let the result appear.

    The logits are those of the new file's weights, which transformers reads with the `gguf` package, in the
    cut model's config: transformers' own reading of a GGUF file knows no pattern of windows.

    Args:
        adapter: the model's adapter.
        model: the pruned model in memory, with weights of ``source``.
        source: the GGUF file that the model was loaded from.
        out: the new file.
        plan: the removal plan, of whole blocks.
        verify_ids: token ids, shape (batch, length).
        expected_logits: of the original with the removed blocks bypassed, shape (batch, length, vocabulary).
        before_it_appears: called after verification, right before ``out`` appears.

    Raises:
        InputError: if the file cannot be cut.
        VerificationError: if a tensor or the logits differ; nothing is left at ``out``.
        ShapcutError: if the file cannot be written.
    """
    try:
        with new_file(out) as file:
            write_gguf_cut(source, plan.kept, file)
            reloaded = _reloaded(file, model, adapter)
            difference, accepted = require_same_logits(adapter, reloaded, verify_ids, expected_logits)
            del reloaded
            size = file.stat().st_size
            report = CheckpointReport(out, size, size, difference, accepted, adapter.library)
            before_it_appears(report)
    except OSError as error:
        raise ShapcutError(f"cannot write {out}: {one_line(error)}") from error
    return report


def _reloaded(file: Path, cut: nn.Module, adapter: Adapter) -> nn.Module:
    try:
        return load_as(file, copy.deepcopy(cut.config)).to(adapter.input_device(cut))
    except Exception as error:
        raise VerificationError(f"the written GGUF file cannot be loaded: {one_line(error)}") from error
