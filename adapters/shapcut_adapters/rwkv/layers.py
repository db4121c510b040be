"""Run one RWKV block on one sequence with the package's own functions."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812 - the name that PyTorch's users know
from torch import Tensor

from shapcut_adapters.rwkv.block_weights import BlockWeights
from shapcut_adapters.rwkv.functions import functions
from shapcut_adapters.rwkv.weights import Version

_ARGUMENTS_OF_QUANTIZED_MATRICES = 4
_NOTHING_YET = -1e30


class Flow(NamedTuple):
    """The values passed from block to block for one sequence.

    Attributes:
        hidden: shape (length, width).
        v_first: values of the first block that ran, shape (length, width); None before it. Only v7 has it.
    """

    hidden: Tensor
    v_first: Tensor | None = None


Memory = tuple[Tensor, ...]
"""A block's state after the tokens so far."""

RunBlock = Callable[[BlockWeights, Flow, Memory | None], tuple[Flow, Memory]]
"""Runs a block on further tokens of a sequence; memory None starts one. Arguments are not modified."""


def run_block(version: Version) -> RunBlock:
    """The function that runs a block of a version."""
    return _RUN[version]


def _run_v4(block: BlockWeights, flow: Flow, memory: Memory | None) -> tuple[Flow, Memory]:
    package = functions("classic").RWKV
    if memory is None:
        zero = _zero(flow.hidden)
        sums = torch.zeros(block.attention_width, device=zero.device)
        memory = (zero, sums, sums, sums + _NOTHING_YET, zero)
    hidden, *attended = package.att_seq(
        None,
        flow.hidden,
        *memory[:4],
        *block.norm("ln1"),
        *block.vectors("att.time_mix_", "kvr"),
        -torch.exp(block.raw["att.time_decay"].squeeze().float()),
        block.raw["att.time_first"].squeeze().float(),
        *block.matrices("att", "key", "value", "receptance", "output"),
        *_unquantized(flow.hidden, 4),
    )
    hidden, shift = _mix_channels(block, hidden, memory[4], "ffn.time_mix_", package.ffn_seq)
    return Flow(hidden), (*attended, shift)


def _run_v5(block: BlockWeights, flow: Flow, memory: Memory | None) -> tuple[Flow, Memory]:
    package = functions("classic").RWKV
    mixes = block.vectors("att.time_mix_", "kvrg")
    decay = torch.exp(-torch.exp(block.per_head("att.time_decay")))
    before = memory or _empty(block, flow.hidden)
    attended = _attend_gated(package.att_seq_v5_2, block, flow.hidden, before, (*mixes, decay))
    hidden, shift = _mix_channels(block, attended[0], before[2], "ffn.time_mix_", package.ffn_seq)
    return Flow(hidden), (*attended[1:], shift)


def _run_v6(block: BlockWeights, flow: Flow, memory: Memory | None) -> tuple[Flow, Memory]:
    package = functions("classic").RWKV
    mixes = block.vectors("att.time_maa_", "xwkvrg")
    ranks = [f"att.{name}" for name in ("time_maa_w1", "time_maa_w2", "time_decay_w1", "time_decay_w2")]
    own = (*mixes, *(block.vector(name) for name in ranks), block.per_head("att.time_decay"))
    before = memory or _empty(block, flow.hidden)
    attended = _attend_gated(package.att_seq_v6_0, block, flow.hidden, before, own)
    hidden, shift = _mix_channels(block, attended[0], before[2], "ffn.time_maa_", package.ffn_seq_v6)
    return Flow(hidden), (*attended[1:], shift)


def _run_v7(block: BlockWeights, flow: Flow, memory: Memory | None) -> tuple[Flow, Memory]:
    package, width = functions("x070"), flow.hidden.shape[-1:]
    shift, state, channel_shift = memory or _empty(block, flow.hidden)
    first = flow.v_first is None
    unused = flow.hidden.new_empty(0)
    mixed, shift, state, v_first = package.RWKV_x070_TMix_seq(
        0 if first else 1,  # the function only tests whether the block is the first
        block.heads,
        block.attention_width // block.heads,
        F.layer_norm(flow.hidden, width, *block.norm("ln1")),
        shift,
        unused if flow.v_first is None else flow.v_first,
        state,
        *block.vectors("att.x_", "rwkvag"),
        *block.vectors("att.w", "012"),
        *block.vectors("att.a", "012"),
        *((unused,) * 3 if first else block.vectors("att.v", "012")),
        *block.vectors("att.g", "12"),
        *block.vectors("att.k_", "ka"),
        block.vector("att.r_k").flatten(),
        *block.matrices("att", "receptance", "key", "value", "output"),
        *block.norm("att.ln_x"),
    )
    hidden = flow.hidden + mixed
    normed = F.layer_norm(hidden, width, *block.norm("ln2"))
    matrices = block.matrices("ffn", "key", "value")
    mixed, channel_shift = package.RWKV_x070_CMix_seq(
        normed, channel_shift, block.vector("ffn.x_k"), *matrices
    )
    return Flow(hidden + mixed, v_first), (shift, state, channel_shift)


_RUN: dict[Version, RunBlock] = {"4": _run_v4, "5.2": _run_v5, "6": _run_v6, "7": _run_v7}


def _attend_gated(
    function: Any, block: BlockWeights, hidden: Tensor, memory: Memory, own: tuple[Tensor, ...]
) -> tuple[Tensor, ...]:
    """The first half of a block of v5.2 or v6: (hidden, last input, state)."""
    attended: tuple[Tensor, ...] = function(
        None,
        hidden,
        *memory[:2],
        *block.norm("ln1"),
        *block.norm("att.ln_x", torch.float32),
        *own,
        block.bonus(),
        *block.matrices("att", "key", "value", "receptance", "gate", "output"),
        *_unquantized(hidden, 5),
    )
    return attended


def _mix_channels(
    block: BlockWeights, hidden: Tensor, shift: Tensor, mixes: str, function: Any
) -> tuple[Tensor, Tensor]:
    """The second half of a block of v4 to v6: (hidden, last input)."""
    mixed: tuple[Tensor, Tensor] = function(
        None,
        hidden,
        shift,
        *block.norm("ln2"),
        *block.vectors(mixes, "kr"),
        *block.matrices("ffn", "key", "value", "receptance"),
        *_unquantized(hidden, 3),
    )
    return mixed


def _zero(hidden: Tensor) -> Tensor:
    return hidden.new_zeros(hidden.shape[-1])


def _empty(block: BlockWeights, hidden: Tensor) -> Memory:
    """The initial memory of v5.2 or later: last input, state, the second half's last input."""
    return _zero(hidden), block.initial_state(), _zero(hidden)


def _unquantized(hidden: Tensor, matrices: int) -> tuple[Tensor, ...]:
    """Arguments used only by 8-bit weights; the package also passes the hidden state."""
    return (hidden,) * (_ARGUMENTS_OF_QUANTIZED_MATRICES * matrices)
