"""Tiny random models of each family, offline, without accidental zeros or identities."""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText

from shapcut_adapters.shared.random_weights import perturb, seeded
from shapcut_adapters.transformers.families import Family, Wrapper

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
_TEXT_ONLY = 90
"""Token ids below this stand for text in the multimodal examples."""


def tiny_model(family: Family, seed: int) -> tuple[nn.Module, Tensor]:
    """A model of six layers in float32 and token ids of shape (3, 12)."""
    generator = torch.Generator().manual_seed(seed)
    config = AutoConfig.for_model(family.model_type, **{**_SIZE, family.depth_field: _DEPTH, **family.tiny})
    builder: Any = AutoModelForCausalLM
    with seeded(seed):
        model = builder.from_config(config)
    perturb(model, generator)
    tokens = torch.randint(3, VOCABULARY, _SHAPE, generator=generator)
    _shift_router_biases(model, generator)
    return model.eval(), tokens


def tiny_wrapper(wrapper: Wrapper, seed: int) -> tuple[nn.Module, Tensor]:
    """A multimodal model around six layers, in float32, and token ids of shape (3, 12) without an image."""
    generator = torch.Generator().manual_seed(seed)
    config = AutoConfig.for_model(wrapper.model_type, **wrapper.config_fields())
    builder: Any = AutoModelForImageTextToText
    with seeded(seed):
        model = builder.from_config(config)
    perturb(model, generator)
    tokens = torch.randint(3, _TEXT_ONLY, _SHAPE, generator=generator)
    _shift_router_biases(model, generator)
    return model.eval(), tokens


def _shift_router_biases(model: nn.Module, generator: torch.Generator) -> None:
    """Shift the buffers by which routers choose among experts; they start at zero."""
    stored = model.state_dict().keys()
    for name, buffer in model.named_buffers():
        if name in stored and "bias" in name.rpartition(".")[2] and buffer.is_floating_point():
            buffer.add_(0.1 * torch.randn(buffer.shape, generator=generator))
