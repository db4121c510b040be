"""The package's normalisations in plain PyTorch, differentiable, in float32 or finer."""

import torch
import torch.nn.functional as F  # noqa: N812 - the name that PyTorch's users know
from torch import Tensor


def add_and_normalise(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    *,
    eps: float,
    residual_in_fp32: bool,
    is_rms_norm: bool,
) -> tuple[Tensor, Tensor]:
    """Layer norm or RMS norm of ``hidden + residual``.

    Args:
        hidden: shape (..., width).
        weight: shape (width,).
        bias: shape (width,) or None.
        residual: of the shape of ``hidden``, or None for nothing.
        eps: added to the variance.
        residual_in_fp32: whether the sum is in float32 and not in the dtype of ``hidden``; for no residual.
        is_rms_norm: whether the mean is left alone.

    Returns:
        The normalised sum in the dtype of ``hidden``, and the sum in the dtype of ``residual``.
    """
    precision = torch.promote_types(hidden.dtype, torch.float32)
    total = hidden.to(precision)
    sum_dtype = torch.float32 if residual_in_fp32 else hidden.dtype
    if residual is not None:
        total, sum_dtype = total + residual, residual.dtype
    scale = weight.to(total.dtype)
    shift = None if bias is None else bias.to(total.dtype)
    if is_rms_norm:
        normal = F.rms_norm(total, scale.shape, scale, eps)
        normal = normal if shift is None else normal + shift
    else:
        normal = F.layer_norm(total, scale.shape, scale, shift, eps)
    return normal.to(hidden.dtype), total.to(sum_dtype)


def gated_rms_norm(
    hidden: Tensor,
    weight: Tensor,
    gate: Tensor | None,
    *,
    eps: float,
    group_size: int | None,
    norm_before_gate: bool,
) -> Tensor:
    """RMS norm in groups of channels, and multiplication by silu(gate), in either order.

    Args:
        hidden: shape (..., width).
        weight: shape (width,).
        gate: of the shape of ``hidden``, or None for no gate.
        eps: added to the mean square.
        group_size: channels that are normalised together; None is all of them.
        norm_before_gate: which comes first.

    Returns:
        Shape and dtype of ``hidden``.
    """
    precision = torch.promote_types(hidden.dtype, torch.float32)
    x = hidden.to(precision)
    opened = None if gate is None else F.silu(gate.to(precision))
    if opened is not None and not norm_before_gate:
        x = x * opened
    groups = x.reshape(*x.shape[:-1], -1, group_size or x.shape[-1])
    x = F.rms_norm(groups, groups.shape[-1:], eps=eps).reshape(x.shape) * weight
    if opened is not None and norm_before_gate:
        x = x * opened
    return x.to(hidden.dtype)
