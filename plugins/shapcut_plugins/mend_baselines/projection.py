"""Changes of the linear map that ends a block."""

from typing import Any

import torch
from torch import Tensor, nn

from shapcut.contracts import OutputProjection

_LEAST_RIDGE = 1e-9
"""Keeps what float32 inputs do not determine from growing."""


def apply_after(model: nn.Module, projection: OutputProjection, matrix: Tensor) -> None:
    """Let a projection return ``output @ matrix``; computed in float64, stored in its own dtype."""
    module: Any = model.get_submodule(projection.module)
    weight, matrix = module.weight.double(), matrix.double()
    module.weight.copy_(weight @ matrix if projection.transposed else matrix.t() @ weight)
    if module.bias is not None:
        module.bias.copy_(module.bias.double() @ matrix)


def add_map(model: nn.Module, projection: OutputProjection, change: Tensor) -> None:
    """Let a projection add ``input @ change`` to the stream, and the last row of it if it has a bias.

    Args:
        model: holds the projection.
        projection: the projection.
        change: shape (inputs, width), with a bias (inputs + 1, width).
    """
    module: Any = model.get_submodule(projection.module)
    change = change.double() / projection.factor
    inputs = len(change) - (module.bias is not None)
    weight = change[:inputs] if projection.transposed else change[:inputs].t()
    module.weight.copy_(module.weight.double() + weight)
    if module.bias is not None:
        module.bias.copy_(module.bias.double() + change[-1])


def solved(second: Tensor, cross: Tensor, ridge: float) -> Tensor:
    """The D that minimises ``|e - a D|^2 + ridge s |D|^2``, s the mean second moment of the inputs.

    Args:
        second: sum of a' a over tokens, float64, shape (inputs, inputs).
        cross: sum of a' e over tokens, float64, shape (inputs, outputs).
        ridge: at least 0; a little is always added, because inputs may depend on each other.
    """
    scale = second.diagonal().mean().clamp_min(torch.finfo(torch.float64).tiny)
    penalty = (ridge + _LEAST_RIDGE) * scale
    system = second + penalty * torch.eye(len(second), dtype=second.dtype, device=second.device)
    return torch.cholesky_solve(cross, torch.linalg.cholesky(system))
