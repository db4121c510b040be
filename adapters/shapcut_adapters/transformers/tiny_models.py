"""Tiny random models of each family, offline, without accidental zeros or identities."""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM

from shapcut_adapters.shared.random_weights import perturb, seeded
from shapcut_adapters.transformers.families import Family

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
