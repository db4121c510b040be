"""How much larger the stream is after the removed blocks than before them."""

import torch
from torch import Tensor


class Magnitudes:
    """Ratios of mean absolute values of each channel, mean over windows of text."""

    def __init__(self) -> None:
        self._sum = torch.zeros(())
        self._windows = 0

    def add(self, before: Tensor, after: Tensor) -> None:
        """Add windows; both of shape (windows, length, width)."""
        means = [each.double().abs().mean(dim=1) for each in (before, after)]
        smallest = torch.finfo(torch.float32).tiny
        self._sum = self._sum + (means[1] / means[0].clamp_min(smallest)).sum(dim=0)
        self._windows += len(before)

    @property
    def ratios(self) -> Tensor:
        """Float64, shape (width,)."""
        return self._sum / self._windows
