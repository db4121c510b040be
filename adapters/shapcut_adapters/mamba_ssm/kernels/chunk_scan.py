"""The scan of Mamba-2 in plain PyTorch, in chunks (Dao and Gu 2024, section 6), differentiable."""

import torch
import torch.nn.functional as F  # noqa: N812 - the name that PyTorch's users know
from torch import Tensor

_CHUNK = 64


def chunk_scan(
    inputs: Tensor,
    step_sizes: Tensor,
    rates: Tensor,
    into: Tensor,
    out_of: Tensor,
    *,
    skip: Tensor | None = None,
    gate: Tensor | None = None,
    step_bias: Tensor | None = None,
    initial_states: Tensor | None = None,
    softplus: bool = False,
    step_limits: tuple[float, float] = (0.0, float("inf")),
) -> tuple[Tensor, Tensor]:
    """The recurrence ``h[t] = exp(d[t] a) h[t-1] + d[t] x[t] B[t]``, ``y[t] = h[t] C[t] + D x[t]``, per head.

    Arithmetic is in float32 or finer.

    Args:
        inputs: x, shape (batch, length, heads, width).
        step_sizes: d before bias and softplus, shape (batch, length, heads).
        rates: a, shape (heads,).
        into: B, shape (batch, length, groups, states); consecutive heads share a group.
        out_of: C, of the shape of ``into``.
        skip: D, shape (heads,) or (heads, width).
        gate: z, of the shape of ``inputs``; the result is multiplied by silu(z).
        step_bias: added to ``step_sizes``, shape (heads,).
        initial_states: h before the first step, shape (batch, heads, width, states).
        softplus: whether to apply softplus to the step sizes.
        step_limits: d is clamped to them.

    Returns:
        y in shape and dtype of ``inputs``, and h[length - 1], shape (batch, heads, width, states).
    """
    precision = torch.promote_types(inputs.dtype, torch.float32)
    x = inputs.to(precision)
    d = step_sizes.to(precision) if step_bias is None else step_sizes.to(precision) + step_bias
    d = (F.softplus(d) if softplus else d).clamp(*step_limits)
    heads_per_group = x.shape[2] // into.shape[2]
    y, state = _chunks(
        (x * d[..., None]).transpose(1, 2),
        (d * rates).transpose(1, 2),
        _per_head(into.to(precision), heads_per_group),
        _per_head(out_of.to(precision), heads_per_group),
        None if initial_states is None else initial_states.to(precision),
    )
    y = y.transpose(1, 2)
    if skip is not None:
        y = y + x * (skip if skip.dim() > 1 else skip[:, None])
    if gate is not None:
        y = y * F.silu(gate.to(precision))
    return y.to(inputs.dtype), state


def _per_head(grouped: Tensor, heads_per_group: int) -> Tensor:
    """(batch, length, groups, states) -> (batch, heads, length, states)."""
    return grouped.transpose(1, 2).repeat_interleave(heads_per_group, dim=1)


def _chunks(
    x: Tensor, log_decays: Tensor, into: Tensor, out_of: Tensor, state: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Outputs (batch, heads, length, width) and the last state, chunk by chunk.

    Args:
        x: inputs times step sizes, shape (batch, heads, length, width).
        log_decays: never positive, shape (batch, heads, length).
        into: shape (batch, heads, length, states).
        out_of: as ``into``.
        state: shape (batch, heads, width, states), or None for zeros.
    """
    if state is None:
        state = x.new_zeros((*x.shape[:2], x.shape[3], into.shape[3]))
    outputs = []
    for start in range(0, x.shape[2], _CHUNK):
        part = slice(start, start + _CHUNK)
        x_part, into_part, out_part = x[:, :, part], into[:, :, part], out_of[:, :, part]
        passed = log_decays[:, :, part].cumsum(dim=-1)  # log of the decay since the chunk began
        lasting = _decays_between(passed)
        within = ((out_part @ into_part.transpose(-1, -2)) * lasting) @ x_part
        before = (out_part @ state.transpose(-1, -2)) * passed.exp()[..., None]
        outputs.append(within + before)
        weighted = into_part * lasting[:, :, -1, :, None]
        state = state * passed[:, :, -1, None, None].exp() + x_part.transpose(-1, -2) @ weighted
    return torch.cat(outputs, dim=2), state


def _decays_between(passed: Tensor) -> Tensor:
    """``exp(passed[i] - passed[j])`` where j <= i, else 0; shape (..., length, length)."""
    differences = passed[..., :, None] - passed[..., None, :]
    later = torch.ones(differences.shape[-2:], dtype=torch.bool, device=passed.device).triu(1)
    return differences.masked_fill(later, -torch.inf).exp()
