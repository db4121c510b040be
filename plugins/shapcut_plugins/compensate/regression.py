"""Ridge regression of a projection's change, from moments accumulated batch by batch."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add

import torch
from torch import Tensor

RIDGES = (10.0, 3.0, 1.0, 0.3, 1e-1, 1e-2, 1e-3, 1e-4)
"""Ridges to try, as shares of the mean diagonal of the second moments, strongest first."""

_SKETCH = 64
"""Columns of a random projection of the outputs, on which ridges are compared."""


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
        return self.error + _added(self.second, self.cross, change)


@dataclass(frozen=True, slots=True)
class Fit:
    """The change to add to a projection.

    Attributes:
        change: float64, shape (inputs, outputs).
        ridge: the chosen ridge; infinite if nothing changes.
        after: remaining share of the error on text that was not fitted, the mean over texts.
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
    return _solved(moments.second, moments.cross, ridge, penalised)


def fit(texts: Sequence[Moments], held: Moments, penalised: Tensor, ridges: Sequence[float] = RIDGES) -> Fit:
    """Fit all texts with the ridge that transfers best from some of them to another.

    A fit of the other texts predicts each text; a fit of a single text predicts the windows held back from
    it. Ridges are tried from the strongest on, until the error grows.

    Args:
        texts: moments of each text.
        held: moments of the windows held back.
        penalised: see `regress`.
        ridges: in descending order.
    """
    whole = reduce(add, texts)
    best, after = float("inf"), 1.0
    folds = list(_folds(texts, held))
    for ridge in ridges:
        found = sum(fold.error_share(ridge, penalised) for fold in folds) / len(folds)
        if found < after:
            best, after = ridge, found
        elif best < float("inf"):
            break
    return Fit(regress(whole, best, penalised), best, after)


@dataclass(frozen=True, slots=True)
class _Fold:
    """Moments to fit and moments to predict, with outputs that may be projected onto fewer."""

    second: Tensor
    cross: Tensor
    checked: Moments
    checked_cross: Tensor
    sketch_scale: float

    def error_share(self, ridge: float, penalised: Tensor) -> float:
        """The remaining share of the predicted text's error."""
        if self.checked.error <= 0.0:
            return 1.0
        change = _solved(self.second, self.cross, ridge, penalised)
        added = _added(self.checked.second, self.checked_cross, change)
        return 1.0 + self.sketch_scale * added / self.checked.error


def _folds(texts: Sequence[Moments], held: Moments) -> Iterator[_Fold]:
    """Each text with the others to predict it from."""
    outputs = held.cross.shape[1]
    sketch = _sketch(outputs, held.cross.device)

    def fold(given: Sequence[Moments], checked: Moments) -> _Fold:
        second = reduce(add, [each.second for each in given])
        cross = reduce(add, [each.cross for each in given])
        if sketch is None:
            return _Fold(second, cross, checked, checked.cross, 1.0)
        return _Fold(second, cross @ sketch, checked, checked.cross @ sketch, outputs / _SKETCH)

    if len(texts) == 1:
        yield fold(texts, held)
        return
    for place, text in enumerate(texts):
        yield fold([*texts[:place], *texts[place + 1 :]], text)


def _sketch(outputs: int, device: torch.device) -> Tensor | None:
    """Orthonormal columns, shape (outputs, 64); None if there are few outputs."""
    if outputs <= 2 * _SKETCH:
        return None
    drawn = torch.randn((outputs, _SKETCH), dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    columns: Tensor = torch.linalg.qr(drawn).Q
    return columns.to(device)


def _solved(second: Tensor, cross: Tensor, ridge: float, penalised: Tensor) -> Tensor:
    if ridge == float("inf"):
        return torch.zeros_like(cross)
    scale = second.diagonal().mean().clamp_min(torch.finfo(torch.float64).tiny)
    penalty = ridge * scale * penalised + torch.finfo(torch.float32).eps * scale
    return torch.cholesky_solve(cross, torch.linalg.cholesky(second + torch.diag(penalty)))


def _added(second: Tensor, cross: Tensor, change: Tensor) -> float:
    """What a change adds to the weighted sum of squared errors."""
    return float((change * (second @ change)).sum()) - 2 * float((change * cross).sum())
