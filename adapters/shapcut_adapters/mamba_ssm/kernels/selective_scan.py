"""The selective scan of Mamba in plain PyTorch (Gu and Dao 2023, Algorithm 2), differentiable."""

import torch
import torch.nn.functional as F  # noqa: N812 - the name that PyTorch's users know
from torch import Tensor


def selective_scan(
    inputs: Tensor,
    step_sizes: Tensor,
    rates: Tensor,
    into: Tensor,
    out_of: Tensor,
    *,
    skip: Tensor | None = None,
    gate: Tensor | None = None,
    step_bias: Tensor | None = None,
    softplus: bool = False,
) -> tuple[Tensor, Tensor]:
    """The recurrence ``h[t] = exp(d[t] A) h[t-1] + d[t] B[t] x[t]``, ``y[t] = C[t] h[t] + D x[t]``.

    Arithmetic is in float32 or finer.

    Args:
        inputs: x, shape (batch, channels, length).
        step_sizes: d before bias and softplus, of the same shape.
        rates: A, shape (channels, states), real.
        into: B, shape (batch, states, length).
        out_of: C, shape (batch, states, length).
        skip: D, shape (channels,).
        gate: z, of the shape of ``inputs``; the result is multiplied by silu(z).
        step_bias: added to ``step_sizes``, shape (channels,).
        softplus: whether to apply softplus to the step sizes.

    Returns:
        y in shape and dtype of ``inputs``, and h[length - 1], shape (batch, channels, states).
    """
    precision = torch.promote_types(inputs.dtype, torch.float32)
    x, d = _time_first(inputs, precision), _time_first(step_sizes, precision)
    y, state = _recurrence(
        x,
        _positive(d, step_bias, softplus=softplus),
        rates.to(precision),
        _time_first(into, precision),
        _time_first(out_of, precision),
    )
    if skip is not None:
        y = y + skip * x
    y = y.permute(1, 2, 0)
    if gate is not None:
        y = y * F.silu(gate.to(precision))
    return y.to(inputs.dtype), state


def _time_first(sequence: Tensor, dtype: torch.dtype) -> Tensor:
    """(batch, channels, length) -> (length, batch, channels), contiguous per step."""
    return sequence.to(dtype).permute(2, 0, 1).contiguous()


def _positive(step_sizes: Tensor, bias: Tensor | None, *, softplus: bool) -> Tensor:
    """Step sizes, channels last."""
    if bias is not None:
        step_sizes = step_sizes + bias
    return F.softplus(step_sizes) if softplus else step_sizes


def _recurrence(x: Tensor, d: Tensor, rates: Tensor, into: Tensor, out_of: Tensor) -> tuple[Tensor, Tensor]:
    """Outputs (length, batch, channels) and the last state, for arguments with time first.

    Step by step: what belongs to one step stays in the processor's cache, unlike a longer part.
    """
    by_state = rates.T  # (states, channels)
    state = x.new_zeros((x.shape[1], *by_state.shape))
    outputs = []
    for dx_t, d_t, b_t, c_t in zip(d * x, d, into, out_of, strict=True):
        drive = b_t[:, :, None] * dx_t[:, None]
        state = torch.addcmul(drive, torch.exp(d_t[:, None] * by_state), state)
        outputs.append((c_t[:, None] @ state).squeeze(1))
    return torch.stack(outputs), state.transpose(1, 2)
