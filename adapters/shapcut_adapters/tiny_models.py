"""Tiny random models of each family, offline, in which nothing is accidentally zero or the identity."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM

from shapcut_adapters.families import Family

VOCABULARY = 96
_SIZE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}
_DEPTH = 6
_SHAPE = (3, 12)


def tiny_model(family: Family, seed: int) -> tuple[nn.Module, Tensor]:
    """A model of six layers in float32 and token ids of shape (3, 12)."""
    generator = torch.Generator().manual_seed(seed)
    config = AutoConfig.for_model(family.model_type, **{**_SIZE, family.depth_field: _DEPTH, **family.tiny})
    builder: Any = AutoModelForCausalLM
    with seeded(seed):
        model = builder.from_config(config)
    perturb(model, generator)
    tokens = torch.randint(3, VOCABULARY, _SHAPE, generator=generator)
    return model.eval(), tokens


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
