"""The recurrences of Mamba, RWKV-4 and RWKV-7 with a backward pass that costs as much as the forward pass.

The models' own functions index the sequence step by step, so that autograd writes a tensor of the whole
sequence for every step. Here a recurrence is one autograd function; `fast_recurrences` puts these functions
in the place of the models' own while a model trains. They compute the same values, which a test checks.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from rwkv7_hf import modeling_rwkv7
from torch import Tensor
from torch.nn import functional
from transformers.models.mamba import modeling_mamba
from transformers.models.rwkv import modeling_rwkv


class DiagonalRecurrence(torch.autograd.Function):
    """State t = decay t * state t-1 + input t, element by element, from zero; time is the first dimension."""

    @staticmethod
    def forward(ctx: Any, decay: Tensor, inputs: Tensor) -> Tensor:  # noqa: D102
        states = torch.empty_like(inputs)
        states[0] = inputs[0]
        for step in range(1, len(inputs)):
            torch.addcmul(inputs[step], decay[step], states[step - 1], out=states[step])
        ctx.save_for_backward(decay, states)
        return states

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:  # noqa: D102
        decay, states = ctx.saved_tensors
        (gradient,) = gradients
        totals = torch.empty_like(states)
        totals[-1] = gradient[-1]
        for step in range(len(states) - 2, -1, -1):
            torch.addcmul(gradient[step], decay[step + 1], totals[step + 1], out=totals[step])
        of_decay = torch.zeros_like(states)
        torch.mul(totals[1:], states[:-1], out=of_decay[1:])
        return of_decay, totals


class MatrixRecurrence(torch.autograd.Function):
    """State t = state t-1 @ transition t + input t, from zero; shapes (time, batch, rows, columns)."""

    @staticmethod
    def forward(ctx: Any, transition: Tensor, inputs: Tensor) -> Tensor:  # noqa: D102
        states = torch.empty_like(inputs)
        states[0] = inputs[0]
        for step in range(1, len(inputs)):
            torch.baddbmm(inputs[step], states[step - 1], transition[step], out=states[step])
        ctx.save_for_backward(transition, states)
        return states

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:  # noqa: D102
        transition, states = ctx.saved_tensors
        (gradient,) = gradients
        totals = torch.empty_like(states)
        totals[-1] = gradient[-1]
        for step in range(len(states) - 2, -1, -1):
            torch.baddbmm(gradient[step], totals[step + 1], transition[step + 1].mT, out=totals[step])
        of_transition = torch.zeros_like(transition)
        of_transition[1:] = states[:-1].mT @ totals[1:]
        return of_transition, totals


def mamba_scan(
    hidden_states: Tensor,
    dt: Tensor,
    rates: Tensor,
    into_state: Tensor,
    out_of_state: Tensor,
    *,
    D: Tensor,  # noqa: N803 - given by this name
    z: Tensor,
    delta_bias: Tensor,
    **options: Any,
) -> Tensor:
    """As `modeling_mamba.mamba_selective_scan` for training: no cache, softplus on the time step."""
    del options
    inputs = hidden_states.permute(2, 0, 1)
    time_step = functional.softplus(dt + delta_bias[:, None]).permute(2, 0, 1)
    state_input = (time_step * inputs)[..., None] * into_state.permute(2, 0, 1)[:, :, None]
    states = DiagonalRecurrence.apply(torch.exp(time_step[..., None] * rates), state_input)
    outputs = (states @ out_of_state.permute(2, 0, 1)[..., None]).squeeze(-1) + inputs * D
    return outputs.permute(1, 2, 0) * functional.silu(z)


def rwkv4_attention(
    time_decay: Tensor, time_first: Tensor, key: Tensor, value: Tensor, **options: Any
) -> tuple[Tensor, None]:
    """As `modeling_rwkv.rwkv_linear_attention` without a state before or after."""
    del options
    weight = torch.exp(key - key.amax(1, keepdim=True).detach()).transpose(0, 1)
    both = torch.stack([weight * value.transpose(0, 1), weight])
    decay = torch.exp(-torch.exp(time_decay)).expand_as(both[0])
    sums = DiagonalRecurrence.apply(
        torch.cat([decay, decay], dim=1), torch.cat([both[0], both[1]], dim=1)
    ).chunk(2, dim=1)
    before = [functional.pad(total[:-1], (0, 0, 0, 0, 1, 0)) for total in sums]
    numerator, denominator = (
        past + torch.exp(time_first) * now for past, now in zip(before, both, strict=True)
    )
    return (numerator / denominator).transpose(0, 1), None


def rwkv7_recurrent(  # noqa: PLR0917 - called with positions
    receptance: Tensor,
    decay: Tensor,
    key: Tensor,
    value: Tensor,
    a: Tensor,
    b: Tensor,
    state: Tensor,
    mask: Tensor,
) -> tuple[Tensor, Tensor]:
    """As `ops_rwkv7.rwkv7_recurrent` from an empty state, with a mask that hides nothing."""
    del mask
    batch, time, heads, width = value.shape

    def time_first(tensor: Tensor) -> Tensor:
        return tensor.permute(1, 0, 2, 3).reshape(time, batch * heads, width)

    receptance, decay, key, value, a, b = map(time_first, (receptance, decay, key, value, a, b))
    transition = torch.diag_embed(decay) + a[..., :, None] * b[..., None, :]
    states = MatrixRecurrence.apply(transition, value[..., :, None] * key[..., None, :])
    outputs = (states @ receptance[..., None]).squeeze(-1)
    return outputs.view(time, batch, heads, width).transpose(0, 1), state


@contextmanager
def fast_recurrences() -> Iterator[None]:
    """Use the functions of this module inside the models' own classes."""
    with (
        patch.object(modeling_mamba, "mamba_selective_scan", mamba_scan),
        patch.object(modeling_rwkv, "rwkv_linear_attention", rwkv4_attention),
        patch.object(modeling_rwkv7, "rwkv7_recurrent", rwkv7_recurrent),
        patch.object(modeling_rwkv7, "_linear_reference", functional.linear),
    ):
        yield
