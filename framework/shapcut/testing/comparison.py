"""Comparing logits on the scale of what an absence does to them."""

from dataclasses import dataclass

import torch
from torch import Tensor

TOLERANCE = 1e-5
"""Largest difference that counts as equal, as a share of the effect of the absence."""

VISIBLE = 1e-3
"""Smallest effect that a comparison can be judged by, as a share of the largest logit."""


class ConformanceError(AssertionError):
    """A promise of the adapter contract is broken, or a check could not have failed."""


def require(condition: object, problem: str) -> None:
    """Fail the running check with ``problem`` unless the condition holds."""
    if not condition:
        raise ConformanceError(problem)


def require_finite(logits: Tensor, what: str) -> None:
    """Fail the running check if logits are not all finite."""
    require(bool(logits.isfinite().all()), f"{what}: the logits are not finite")


@dataclass(slots=True)
class Comparison:
    """Compares logits with references and remembers the worst case.

    Attributes:
        full: logits with all players present; the scale of what is visible.
        worst: the largest difference so far, as a share of the effect of its absence.
        count: number of comparisons so far.
    """

    full: Tensor
    worst: float = 0.0
    count: int = 0

    def effect(self, reference: Tensor, what: str) -> float:
        """How far an absence moves the logits.

        Raises:
            ConformanceError: if it is too little to tell a right result from a wrong one.
        """
        require_finite(reference, what)
        effect = float((reference.double() - self.full.double()).abs().max())
        scale = float(self.full.abs().max())
        require(
            effect > VISIBLE * scale,
            f"{what}: vacuous, the absence moves logits of size {scale:.2g} by only {effect:.2g}",
        )
        return effect

    def same(self, actual: Tensor, reference: Tensor, effect: float, what: str) -> None:
        """Require that two results are equal up to rounding.

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
        require(share <= TOLERANCE, f"{what}: differs by {share:.2g} of the effect of the absence")
        self.count += 1

    def summary(self) -> str:
        """What was compared, in one phrase."""
        return f"{self.count} comparisons, largest difference {self.worst:.1g} of the effect"


def identical(first: Tensor, second: Tensor) -> bool:
    """Whether two tensors agree bit for bit."""
    return first.dtype == second.dtype and torch.equal(first, second)
