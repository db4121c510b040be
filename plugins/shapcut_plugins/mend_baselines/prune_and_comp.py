"""Prune&Comp: scale the stream at each cut to the size that it had."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from torch import nn

from shapcut.contracts import Adapter, StepContext
from shapcut_plugins.mend_baselines.base import MendingBaseline, Sample
from shapcut_plugins.mend_baselines.crossings import crossings
from shapcut_plugins.mend_baselines.cuts import Cut
from shapcut_plugins.mend_baselines.magnitude import Magnitudes
from shapcut_plugins.mend_baselines.scaling import scale_from, scaling_objection


class PruneAndComp(MendingBaseline):
    """Prune&Comp (arXiv 2507.18212): one factor a cut for the magnitude that the removed blocks added.

    The factor is the ratio of a channel's mean absolute value after and before the removed blocks of the
    original, mean over channels and windows. Where the paper multiplies the embedding and what the blocks
    before the cut add, this step divides what the blocks after it add, which is the same model.

    Args:
        samples: maximum number of windows of calibration text.
        sequence_length: tokens per window; 0: the recipe's.
    """

    name: ClassVar[str] = "prune-and-comp"

    def __init__(self, samples: int = 128, sequence_length: int = 0) -> None:
        self._sample = Sample(samples, sequence_length)

    def objection(self, model: nn.Module, adapter: Adapter) -> str:
        """The stream cannot be scaled by weights."""
        return scaling_objection(model, adapter)

    def mend(
        self, model: nn.Module, context: StepContext, cuts: Sequence[Cut]
    ) -> Sequence[Mapping[str, Any]]:
        """Measure and fold the factor of each cut."""
        windows = self._sample.windows(context)
        sizes = [Magnitudes() for _ in cuts]
        for found in crossings(context.adapter, context.original(), windows, cuts):
            sizes[found.cut].add(found.before, found.after)
        factors = [float(each.ratios.mean()) for each in sizes]
        for cut, factor in zip(cuts, factors, strict=True):
            scale_from(context.adapter, model, cut.before + 1, factor)
        return [{"factor": factor} for factor in factors]
