"""LinearPatch: rescale the stream at each cut in a rotated basis."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from shapcut.contracts import Adapter, StepContext
from shapcut_plugins.mend_baselines.base import MendingBaseline, Sample, has_linear, last_linear
from shapcut_plugins.mend_baselines.crossings import Crossing, crossings
from shapcut_plugins.mend_baselines.cuts import Cut
from shapcut_plugins.mend_baselines.hadamard import rotation
from shapcut_plugins.mend_baselines.magnitude import Magnitudes
from shapcut_plugins.mend_baselines.projection import add_map, solved
from shapcut_plugins.mend_baselines.replace_me import no_linear, watched_projections
from shapcut_plugins.mend_baselines.scaling import scale_from, scaling_objection


class LinearPatch(MendingBaseline):
    """LinearPatch (arXiv 2505.24680), as far as it can be folded into weights: a linear map of the stream.

    The published map of the stream X at a cut is P = H D H', H a Hadamard matrix and D the ratios of the
    mean absolute values of each channel of X H after and before the removed blocks. It is a layer of its own,
    which a plain checkpoint has no place for. Folded are the multiple c of the identity that is nearest to
    it on the text, in the blocks after the cut, and of the rest X (P - c) what the last linear map before the
    cut can add, by least squares. Tokens count by the inverse square of their norm, so that the few massive
    ones do not decide. The report says which share of the patch is folded.

    Args:
        ridge: of the least squares, as a share of the mean second moment of the inputs.
        samples: maximum number of windows of calibration text.
        sequence_length: tokens per window; 0: the recipe's.
    """

    name: ClassVar[str] = "linear-patch"

    def __init__(self, ridge: float = 1e-2, samples: int = 128, sequence_length: int = 0) -> None:
        if ridge < 0.0:
            raise ValueError(f"ridge={ridge}: at least 0 is needed")
        self._ridge = ridge
        self._sample = Sample(samples, sequence_length)

    def objection(self, model: nn.Module, adapter: Adapter) -> str:
        """Neither part of the patch can be folded."""
        scaling = scaling_objection(model, adapter)
        return "" if not scaling or has_linear(adapter, model) else f"{no_linear(model)}, and {scaling}"

    def mend(
        self, model: nn.Module, context: StepContext, cuts: Sequence[Cut]
    ) -> Sequence[Mapping[str, Any]]:
        """Measure the patch of each cut and fold it."""
        adapter, original = context.adapter, context.original()
        watched = watched_projections(adapter, original, cuts)
        scalable = not scaling_objection(original, adapter)
        windows = self._sample.windows(context)
        patches = [Patch() for _ in cuts]
        for found in crossings(adapter, original, windows, cuts, watched):
            with_bias = found.cut in watched and _has_bias(original, watched[found.cut].module)
            patches[found.cut].add(found, with_bias=with_bias)
        factors = [patch.factor if scalable else 1.0 for patch in patches]
        done: list[Mapping[str, Any]] = []
        for number, (cut, patch, factor) in enumerate(zip(cuts, patches, factors, strict=True)):
            change = patch.change(factor, self._ridge) if number in watched else None
            projection = last_linear(adapter, model, cut.before) if number in watched else None
            if projection is not None and change is not None:
                add_map(model, projection, change)
            module = None if projection is None else projection.module
            done.append({"module": module, "factor": factor, "folded": patch.folded(factor, change)})
        if scalable:  # after all changes, which an earlier cut scales, too
            for cut, factor in zip(cuts, factors, strict=True):
                scale_from(adapter, model, cut.before + 1, factor)
        return done


def _has_bias(model: nn.Module, module: str) -> bool:
    found: Any = model.get_submodule(module)
    return found.bias is not None


class Patch:
    """The patch of one cut, and how much of it can be folded."""

    def __init__(self) -> None:
        self._sizes = Magnitudes()
        self._rotation = torch.zeros(())
        self._streams = torch.zeros(())
        self._second = torch.zeros(())
        self._cross = torch.zeros(())

    def add(self, found: Crossing, *, with_bias: bool) -> None:
        """Add tokens."""
        width = found.before.shape[-1]
        if self._rotation.ndim == 0:
            self._rotation = rotation(width).to(found.before)
        self._sizes.add(found.before @ self._rotation, found.after @ self._rotation)
        stream = found.before.reshape(-1, width).double()
        norms = stream.norm(dim=1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
        stream = stream / norms
        self._streams = self._streams + stream.t() @ stream
        if found.given.ndim < 2:  # noqa: PLR2004 - no projection is watched
            return
        given = found.given.double()
        if with_bias:
            given = torch.cat([given, torch.ones_like(given[:, :1])], dim=1)
        given = given / norms
        self._second = self._second + given.t() @ given
        self._cross = self._cross + given.t() @ stream

    @property
    def matrix(self) -> Tensor:
        """The published patch P, float64, shape (width, width)."""
        turned = self._rotation.double()
        return turned @ torch.diag(self._sizes.ratios) @ turned.t()

    @property
    def factor(self) -> float:
        """The c for which c X is nearest to X P."""
        return float((self.matrix * self._streams).sum() / self._streams.trace())

    def change(self, factor: float, ridge: float) -> Tensor:
        """The map of the projection's inputs that adds most of ``X (P / c - 1)`` to the stream."""
        return solved(self._second, self._cross @ self._rest(factor), ridge)

    def folded(self, factor: float, change: Tensor | None) -> float:
        """The share of the squares of ``X (P - 1)`` that a factor and a change give."""
        wanted = self._rest(1.0)
        asked = float((wanted * (self._streams @ wanted)).sum())
        rest = factor * self._rest(factor)
        left = float((rest * (self._streams @ rest)).sum())
        if change is not None:
            given = factor * change
            left += float((given * (self._second @ given - 2 * self._cross @ rest)).sum())
        return 1.0 - left / asked if asked > 0 else 1.0

    def _rest(self, factor: float) -> Tensor:
        matrix = self.matrix
        return matrix / factor - torch.eye(len(matrix), dtype=matrix.dtype, device=matrix.device)
