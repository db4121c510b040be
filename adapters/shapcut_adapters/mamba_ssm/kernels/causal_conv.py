"""The functions of the ``causal-conv1d`` package in plain PyTorch, as the layers of mamba-ssm call them."""

import torch
import torch.nn.functional as F  # noqa: N812 - the name that PyTorch's users know
from torch import Tensor


def causal_conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    seq_idx: Tensor | None = None,
    *,
    activation: str | None = None,
) -> Tensor:
    """A causal depthwise convolution.

    Args:
        x: shape (batch, channels, length).
        weight: shape (channels, width).
        bias: shape (channels,) or None.
        seq_idx: must be None.
        activation: None, silu or swish (another name of it).

    Raises:
        ValueError: if several sequences are packed into one.
    """
    if seq_idx is not None:
        raise ValueError("packed sequences (seq_idx) need the kernels of causal-conv1d on a GPU")
    padded = F.pad(x, (weight.shape[1] - 1, 0))
    return _activated(F.conv1d(padded, weight[:, None], bias, groups=len(weight)), activation)


def causal_conv_step(
    x: Tensor, state: Tensor, weight: Tensor, bias: Tensor | None = None, activation: str | None = None
) -> Tensor:
    """One position of `causal_conv`.

    Args:
        x: shape (batch, channels).
        state: the last positions, shape (batch, channels, width); it moves on in place.
        weight: shape (channels, width).
        bias: shape (channels,) or None.
        activation: as in `causal_conv`.
    """
    state.copy_(torch.cat((state[..., 1:], x[..., None]), dim=-1))
    result = (state * weight).sum(dim=-1)
    return _activated(result if bias is None else result + bias, activation).to(x.dtype)


def _activated(x: Tensor, activation: str | None) -> Tensor:
    return x if activation is None else F.silu(x)
