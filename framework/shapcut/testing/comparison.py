"""Compare logits on the scale of an absence's effect."""

from dataclasses import dataclass

import torch
from torch import Tensor

TOLERANCE = 1e-5
"""Largest difference considered equal, as a share of the effect of the absence."""

VISIBLE = 1e-3
"""Smallest effect that makes a comparison meaningful, as a share of the largest logit."""


class ConformanceError(AssertionError):
    """A guarantee of the adapter contract is violated, or a check could not have failed."""


def require(condition: object, problem: str) -> None:
    """Fail the running check with ``problem`` unless the condition holds."""
    if not condition:
        raise ConformanceError(problem)


def require_finite(logits: Tensor, what: str) -> None:
    """Fail the running check if logits are not all finite."""
    require(bool(logits.isfinite().all()), f"{what}: the logits are not finite")


@dataclass(slots=True)
class Comparison:
    """Compare logits with references and keep the worst case.

    Attributes:
        full: logits with all players present.
        worst: the largest difference so far, as a share of the effect of its absence.
        count: number of comparisons so far.
    """

    full: Tensor
    worst: float = 0.0
    count: int = 0

    def effect(self, reference: Tensor, what: str) -> float:
        """The largest change that an absence makes to the logits.

        Raises:
            ConformanceError: if it is too small to tell a right result from a wrong one.
        """
        require_finite(reference, what)
        effect = float((reference.double() - self.full.double()).abs().max())
        scale = float(self.full.abs().max())
        require(
            effect > VISIBLE * scale,
            f"{what}: vacuous, the absence moves logits of size {scale:.2g} by only {effect:.2g}",
        )
        return effect

    def shows(self, reference: Tensor) -> bool:
        """Whether an absence changes the logits enough for a comparison."""
        effect = float((reference.double() - self.full.double()).abs().max())
        return effect > VISIBLE * float(self.full.abs().max())

    def same(self, actual: Tensor, reference: Tensor, effect: float, what: str) -> None:
        """Require two results to be equal up to rounding.

        Raises:
            ConformanceError: if shapes differ, or values by more than `TOLERANCE` of the effect.
        """
        require(
            actual.shape == reference.shape,
            f"{what}: shape {tuple(actual.shape)} instead of {tuple(reference.shape)}",
        )
        require_finite(actual, what)
        share = float((actual.double() - reference.double()).abs().max()) / effect
        self.worst = max(self.worst, share)
        require(share <= TOLERANCE, f"{what}: differs by {share:.2g} times the effect of the absence")
        self.count += 1

    def summary(self) -> str:
        """The comparisons in one phrase."""
        return f"{self.count} comparisons, largest difference {self.worst:.1g} of the effect"


def identical(first: Tensor, second: Tensor) -> bool:
    """Whether two tensors agree bit for bit."""
    return first.dtype == second.dtype and torch.equal(first, second)
