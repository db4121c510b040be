"""ReplaceMe: one linear map in place of the removed blocks."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from shapcut.contracts import Adapter, OutputProjection, StepContext
from shapcut_plugins.mend_baselines.base import MendingBaseline, Sample, has_linear, last_linear
from shapcut_plugins.mend_baselines.crossings import crossings
from shapcut_plugins.mend_baselines.cuts import Cut
from shapcut_plugins.mend_baselines.projection import apply_after, solved

_RATE = 1e-4
_TOKENS_PER_UPDATE = 1024


class ReplaceMe(MendingBaseline):
    """ReplaceMe (arXiv 2505.02819): a linear map of the MLP before each cut, folded into its last weights.

    With M what that MLP adds to the original's stream, Y the stream without it and L the stream after the
    removed blocks, the map T makes M T + Y approximate L. Each cut has its own map, fitted on the original.
    A block of a single mixer is mapped as an MLP is.

    Args:
        objective: ``least-squares``: of L - Y - M T, in closed form; ``cosine``: mean cosine distance of
            M T + Y and L, by Adam from T = 1.
        ridge: of the least squares, as a share of the mean second moment of M.
        epochs: passes over the tokens, for ``cosine``.
        samples: maximum number of windows of calibration text.
        sequence_length: tokens per window; 0: the recipe's.
    """

    name: ClassVar[str] = "replace-me"

    def __init__(
        self,
        objective: Literal["least-squares", "cosine"] = "least-squares",
        ridge: float = 0.0,
        epochs: int = 10,
        samples: int = 128,
        sequence_length: int = 0,
    ) -> None:
        if ridge < 0.0:
            raise ValueError(f"ridge={ridge}: at least 0 is needed")
        if epochs < 1:
            raise ValueError(f"epochs={epochs}: at least 1 is needed")
        self._objective = objective
        self._ridge = ridge
        self._epochs = epochs
        self._sample = Sample(samples, sequence_length)

    def objection(self, model: nn.Module, adapter: Adapter) -> str:
        """No block ends in a linear map."""
        return "" if has_linear(adapter, model) else no_linear(model)

    def mend(
        self, model: nn.Module, context: StepContext, cuts: Sequence[Cut]
    ) -> Sequence[Mapping[str, Any]]:
        """Fit and fold the map of each cut that has a block before it."""
        adapter, original = context.adapter, context.original()
        watched = watched_projections(adapter, original, cuts)
        windows = self._sample.windows(context)
        fits = {number: _Fit() for number in watched}
        for found in crossings(adapter, original, windows, cuts, watched):
            if found.cut in fits:
                width = found.added.shape[1]
                before, after = found.before.reshape(-1, width), found.after.reshape(-1, width)
                fits[found.cut].add(found.added, before, after, keep=self._objective == "cosine")
        done: list[Mapping[str, Any]] = []
        for number, cut in enumerate(cuts):
            projection = last_linear(adapter, model, cut.before) if number in fits else None
            if projection is None:
                done.append({"module": None})
                continue
            matrix = self._matrix(fits[number], context.seed)
            apply_after(model, projection, matrix)
            done.append({"module": projection.module, "error": fits[number].error_after(matrix)})
        return done

    def _matrix(self, fitted: "_Fit", seed: int) -> Tensor:
        if self._objective == "least-squares":
            return solved(fitted.second, fitted.cross, self._ridge)
        return fitted.by_cosine(self._epochs, seed)


class _Fit:
    """What is known of one cut: moments, and for the cosine objective all tokens."""

    def __init__(self) -> None:
        self.second = torch.zeros(())
        self.cross = torch.zeros(())
        self.error = 0.0
        self._tokens: list[tuple[Tensor, Tensor, Tensor]] = []

    def add(self, added: Tensor, before: Tensor, after: Tensor, *, keep: bool) -> None:
        """Add tokens; all of shape (tokens, width)."""
        wide, rest = added.double(), (after - before + added).double()
        self.second = self.second + wide.t() @ wide
        self.cross = self.cross + wide.t() @ rest
        self.error += float(rest.square().sum())
        if keep:
            self._tokens.append((added, before - added, after))

    def error_after(self, matrix: Tensor) -> float:
        """Sum of squared errors after a map, as a share of that of the plain cut."""
        plain = torch.eye(len(matrix), dtype=torch.float64, device=matrix.device)
        first, last = (self._squares(each.double()) for each in (plain, matrix))
        return last / first if first > 0 else 1.0

    def _squares(self, matrix: Tensor) -> float:
        return self.error + float((matrix * (self.second @ matrix - 2 * self.cross)).sum())

    def by_cosine(self, epochs: int, seed: int) -> Tensor:
        """The map of the smallest mean cosine distance that Adam finds."""
        added, rest, after = (torch.cat(parts) for parts in zip(*self._tokens, strict=True))
        generator = torch.Generator().manual_seed(seed)
        matrix = torch.eye(added.shape[1], device=added.device, requires_grad=True)
        optimizer = torch.optim.Adam([matrix], lr=_RATE)
        for _ in range(epochs):
            order = torch.randperm(len(added), generator=generator).to(added.device)
            for chosen in torch.split(order, _TOKENS_PER_UPDATE):
                with torch.enable_grad():
                    mapped = added[chosen] @ matrix + rest[chosen]
                    loss = -functional.cosine_similarity(mapped, after[chosen]).mean()
                optimizer.zero_grad()
                torch.autograd.backward(loss)
                optimizer.step()
        return matrix.detach()


def watched_projections(
    adapter: Adapter, original: nn.Module, cuts: Sequence[Cut]
) -> dict[int, OutputProjection]:
    """By cut, the linear map that ends the original's block before it; cuts without one are left out."""
    found = {
        number: last_linear(adapter, original, cut.entry - 1)
        for number, cut in enumerate(cuts)
        if cut.before >= 0
    }
    return {number: each for number, each in found.items() if each is not None}


def no_linear(model: nn.Module) -> str:
    """The objection to a model in which nothing can be folded."""
    return f"no block of {type(model).__name__} ends in a linear map that is added to the residual stream"
