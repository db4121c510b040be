"""Ridge regression of a projection's change, from moments accumulated batch by batch."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

RIDGES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
"""Ridges to try, as shares of the mean diagonal of the second moments."""


class Moments:
    """Weighted second moments of a projection's inputs and errors over tokens.

    With inputs a of shape (tokens, inputs), errors e of shape (tokens, outputs) and a weight w for each
    token: the sums of w a a', w a e' and w |e|^2, kept in float64.

    Args:
        inputs: number of inputs.
        outputs: number of outputs.
        device: of the sums.
    """

    def __init__(self, inputs: int, outputs: int, device: torch.device) -> None:
        self.tokens = 0
        self.second = torch.zeros((inputs, inputs), dtype=torch.float64, device=device)
        self.cross = torch.zeros((inputs, outputs), dtype=torch.float64, device=device)
        self.error = 0.0

    def add(self, given: Tensor, errors: Tensor, weights: Tensor) -> None:
        """Add tokens: inputs (tokens, inputs), errors (tokens, outputs), weights (tokens,)."""
        roots = weights.float().sqrt()[:, None]
        scaled, wrong = given.float() * roots, errors.float() * roots
        self.second += scaled.t() @ scaled
        self.cross += scaled.t() @ wrong
        self.error += float(wrong.double().square().sum())
        self.tokens += len(given)

    def __add__(self, other: "Moments") -> "Moments":
        inputs, outputs = self.cross.shape
        both = Moments(inputs, outputs, self.cross.device)
        both.second = self.second + other.second
        both.cross = self.cross + other.cross
        both.error = self.error + other.error
        both.tokens = self.tokens + other.tokens
        return both

    def error_after(self, change: Tensor) -> float:
        """The weighted sum of squared errors if ``change``, shape (inputs, outputs), is added to the map."""
        quadratic = float((change * (self.second @ change)).sum())
        return self.error - 2 * float((change * self.cross).sum()) + quadratic


@dataclass(frozen=True, slots=True)
class Fit:
    """The change to add to a projection.

    Attributes:
        change: float64, shape (inputs, outputs).
        ridge: the chosen ridge; infinite if nothing changes.
        after: remaining share of the error on held-back tokens, fitted on the others.
    """

    change: Tensor
    ridge: float
    after: float


def regress(moments: Moments, ridge: float, penalised: Tensor) -> Tensor:
    """The D that minimises ``sum w |e - D' a|^2 + ridge s |D|^2``, s the mean second moment of the inputs.

    Args:
        moments: the moments to fit.
        ridge: infinite: no change.
        penalised: factor of the ridge for each input, shape (inputs,).

    Returns:
        float64, shape (inputs, outputs).
    """
    if ridge == float("inf"):
        return torch.zeros_like(moments.cross)
    diagonal = moments.second.diagonal()
    scale = diagonal.mean().clamp_min(torch.finfo(torch.float64).tiny)
    penalty = ridge * scale * penalised + torch.finfo(torch.float32).eps * scale
    system = moments.second + torch.diag(penalty)
    return torch.cholesky_solve(moments.cross, torch.linalg.cholesky(system))


def fit(fitted: Moments, checked: Moments, penalised: Tensor, ridges: Sequence[float] = RIDGES) -> Fit:
    """Fit all tokens, with the ridge that is best on ``checked`` after fitting ``fitted`` alone."""
    found = [(checked.error_after(regress(fitted, ridge, penalised)), ridge) for ridge in ridges]
    error, ridge = min([*found, (checked.error, float("inf"))])
    share = error / checked.error if checked.error > 0 else 1.0
    return Fit(regress(fitted + checked, ridge, penalised), ridge, share)
