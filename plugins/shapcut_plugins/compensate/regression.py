"""Ridge regression of what a projection should add, from sums that are gathered batch by batch."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

RIDGES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
"""Ridges that are tried, as shares of the mean of the second moments' diagonal."""


class Moments:
    """Weighted sums over tokens of products of a projection's inputs, and of inputs and errors.

    With inputs a of shape (tokens, inputs), errors e of shape (tokens, outputs) and a weight w for each
    token: the sums of w a a', w a e' and w e e'. Sums are kept in float64, whatever is added.

    Args:
        inputs: number of inputs.
        outputs: number of outputs.
        device: where the sums are.
    """

    def __init__(self, inputs: int, outputs: int, device: torch.device) -> None:
        self.tokens = 0
        self.second = torch.zeros((inputs, inputs), dtype=torch.float64, device=device)
        self.cross = torch.zeros((inputs, outputs), dtype=torch.float64, device=device)
        self.error = 0.0

    def add(self, given: Tensor, errors: Tensor, weights: Tensor) -> None:
        """Take in tokens: inputs (tokens, inputs), errors (tokens, outputs), weights (tokens,)."""
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
    """What is to be added to a projection.

    Attributes:
        change: float64, shape (inputs, outputs).
        ridge: the ridge that was chosen; infinite if nothing is to change.
        after: what is left of the error on the tokens that chose the ridge, if the others are fitted.
    """

    change: Tensor
    ridge: float
    after: float


def regress(moments: Moments, ridge: float, penalised: Tensor) -> Tensor:
    """The change D of least ``sum w |e - D' a|^2 + ridge s |D|^2``, s the mean second moment of the inputs.

    Args:
        moments: of the tokens.
        ridge: infinite gives no change.
        penalised: what the ridge is multiplied by for each input, shape (inputs,).

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
    """The change by all tokens, with the ridge that does best on ``checked`` if the others are fitted."""
    found = [(checked.error_after(regress(fitted, ridge, penalised)), ridge) for ridge in ridges]
    error, ridge = min([*found, (checked.error, float("inf"))])
    share = error / checked.error if checked.error > 0 else 1.0
    return Fit(regress(fitted + checked, ridge, penalised), ridge, share)
