"""Random weights for examples."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """What draws from torch's global generator draws from ``seed``; afterwards the generator is as before."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def perturb(model: nn.Module, generator: torch.Generator) -> None:
    """Give every weight a value of its own: matrices normal, norms and biases moved from where they start."""
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.dim() > 1:
                parameter.copy_(noise * 1.5 / parameter.shape[-1] ** 0.5)
            else:
                parameter.add_(0.2 * noise)
