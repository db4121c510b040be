"""Greedy generation on any device; the package's own needs CUDA and is wrong for some layers."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

from shapcut_adapters.mamba_ssm.structure import blocks_of
from shapcut_adapters.shared.forwards import replaced_blocks

_UNLIMITED = (0.0, float("inf"))


def generate_greedily(model: nn.Module, input_ids: Tensor, new_tokens: int, *, use_cache: bool) -> Tensor:
    """Shape (batch, length + new_tokens); end tokens do not stop it."""
    with torch.inference_mode():
        if use_cache:
            return _with_states(model, input_ids, new_tokens)
        for _ in range(new_tokens):
            input_ids = _with_next(input_ids, model(input_ids, num_last_tokens=1))
        return input_ids


def generation_state(model: nn.Module, input_ids: Tensor) -> object:
    """The package's state of each block after reading token ids of shape (batch, length)."""
    generation: Any = import_module("mamba_ssm.utils.generation")
    batch, length = input_ids.shape
    states = generation.InferenceParams(max_seqlen=length, max_batch_size=batch)
    with torch.inference_mode():
        model(input_ids, inference_params=states, num_last_tokens=1)
    return states.key_value_memory_dict


def _with_states(model: nn.Module, input_ids: Tensor, new_tokens: int) -> Tensor:
    """Read the prompt at once, then one token at a time, with each block's state."""
    generation: Any = import_module("mamba_ssm.utils.generation")
    batch, length = input_ids.shape
    states = generation.InferenceParams(max_seqlen=length + new_tokens, max_batch_size=batch)
    unread = input_ids
    with _inexact_mixers_recompute(model):
        for _ in range(new_tokens):
            output = model(unread, inference_params=states, num_last_tokens=1)
            states.seqlen_offset += unread.shape[1]
            input_ids = _with_next(input_ids, output)
            unread = input_ids[:, -1:]
    return input_ids


def _with_next(input_ids: Tensor, output: Any) -> Tensor:
    return torch.cat((input_ids, output.logits[:, -1:].argmax(dim=-1)), dim=1)


@contextmanager
def _inexact_mixers_recompute(model: nn.Module) -> Iterator[None]:
    """Let mixers whose single steps differ from a full pass cache their inputs and repeat the pass."""
    mixers: list[Any] = [block.mixer for block in blocks_of(model)]
    with replaced_blocks((mixer, _recomputing(mixer)) for mixer in mixers if not _steps_exactly(mixer)):
        yield


def _steps_exactly(mixer: Any) -> bool:
    """Whether the package's single steps of a mixer continue its pass over a sequence exactly.

    Attention without flash-attn masks all but the first position, and what it keeps for its convolution is
    the result of that convolution; Mamba-2 does not apply ``dt_limit`` in a step.
    """
    attention: Any = import_module("mamba_ssm.modules.mha")
    limits = getattr(mixer, "dt_limit", _UNLIMITED)
    return not isinstance(mixer, attention.MHA) and tuple(limits) == _UNLIMITED


def _recomputing(mixer: nn.Module) -> Callable[..., Tensor]:
    forward = mixer.forward
    seen: list[Tensor] = []

    def compute(hidden_states: Tensor, **_states: Any) -> Tensor:
        seen.append(hidden_states)
        whole: Tensor = forward(torch.cat(seen, dim=1))
        return whole[:, -hidden_states.shape[1] :]

    return compute
