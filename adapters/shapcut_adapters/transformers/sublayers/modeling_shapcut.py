"""Decoders of transformers with fewer MLPs than attentions, or the other way round. Written by shapcut.

A layer here is one attention and the MLPs that run between it and the next attention: none, one or several.
The first layer also has the MLPs that run before its attention. So the attentions are numbered without gaps,
as the key-value cache numbers them, and per-layer lists of the config, such as layer_types, are lists of
attentions.

Two fields of the config say how many MLPs there are: leading_mlps, before the first attention, and
mlps_per_layer, after the attention of each layer.
"""

from typing import Any

from torch import Tensor, nn
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)
from transformers.models.llama.modeling_llama import LlamaDecoderLayer
from transformers.models.mistral.modeling_mistral import MistralDecoderLayer
from transformers.models.qwen2.modeling_qwen2 import Qwen2DecoderLayer
from transformers.models.qwen3.modeling_qwen3 import Qwen3DecoderLayer


class FeedForward(nn.Module):
    """An MLP with its norm and its residual connection."""

    def __init__(self, norm: nn.Module, mlp: nn.Module) -> None:
        super().__init__()
        self.norm = norm
        self.mlp = mlp

    def forward(self, hidden_states: Tensor) -> Tensor:
        """The hidden states, shape (batch, length, width), after the MLP."""
        updated: Tensor = hidden_states + self.mlp(self.norm(hidden_states))
        return updated


class UnequalLayer(nn.Module):
    """Mixed into a decoder layer: its one MLP makes way for any number of them."""

    def __init__(self, config: Any, layer_idx: int) -> None:
        super().__init__(config, layer_idx)
        norm: Any = type(self.input_layernorm)
        mlp: Any = type(self.mlp)
        del self.mlp, self.post_attention_layernorm

        def feed_forwards(count: int) -> nn.ModuleList:
            parts = ((norm(config.hidden_size, eps=config.rms_norm_eps), mlp(config)) for _ in range(count))
            return nn.ModuleList(FeedForward(*part) for part in parts)

        self.leading_mlps = feed_forwards(config.leading_mlps if layer_idx == 0 else 0)
        self.mlps = feed_forwards(config.mlps_per_layer[layer_idx])

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """The hidden states, shape (batch, length, width), after the layer."""
        for feed_forward in self.leading_mlps:
            hidden_states = feed_forward(hidden_states)
        attention: Any = self.self_attn
        norm: Any = self.input_layernorm
        attended, _ = attention(norm(hidden_states), *args, **kwargs)
        hidden_states = hidden_states + attended
        for feed_forward in self.mlps:
            hidden_states = feed_forward(hidden_states)
        return hidden_states


def _replace_layers(model: Any, layer: type) -> None:
    layers = [layer(model.config, index) for index in range(model.config.num_hidden_layers)]
    model.model.layers = nn.ModuleList(layers)
    model.post_init()


class ShapcutLlamaConfig(LlamaConfig):
    """A Llama's config."""

    model_type = "shapcut_llama"
    leading_mlps: int = 0
    mlps_per_layer: list[int] | None = None


class ShapcutLlamaLayer(UnequalLayer, LlamaDecoderLayer):
    """A Llama's layer."""


class ShapcutLlamaForCausalLM(LlamaForCausalLM):
    """A Llama."""

    config_class = ShapcutLlamaConfig
    _no_split_modules = ("ShapcutLlamaLayer",)

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        _replace_layers(self, ShapcutLlamaLayer)


class ShapcutMistralConfig(MistralConfig):
    """A Mistral's config."""

    model_type = "shapcut_mistral"
    leading_mlps: int = 0
    mlps_per_layer: list[int] | None = None


class ShapcutMistralLayer(UnequalLayer, MistralDecoderLayer):
    """A Mistral's layer."""


class ShapcutMistralForCausalLM(MistralForCausalLM):
    """A Mistral."""

    config_class = ShapcutMistralConfig
    _no_split_modules = ("ShapcutMistralLayer",)

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        _replace_layers(self, ShapcutMistralLayer)


class ShapcutQwen2Config(Qwen2Config):
    """A Qwen2's config."""

    model_type = "shapcut_qwen2"
    leading_mlps: int = 0
    mlps_per_layer: list[int] | None = None


class ShapcutQwen2Layer(UnequalLayer, Qwen2DecoderLayer):
    """A Qwen2's layer."""


class ShapcutQwen2ForCausalLM(Qwen2ForCausalLM):
    """A Qwen2."""

    config_class = ShapcutQwen2Config
    _no_split_modules = ("ShapcutQwen2Layer",)

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        _replace_layers(self, ShapcutQwen2Layer)


class ShapcutQwen3Config(Qwen3Config):
    """A Qwen3's config."""

    model_type = "shapcut_qwen3"
    leading_mlps: int = 0
    mlps_per_layer: list[int] | None = None


class ShapcutQwen3Layer(UnequalLayer, Qwen3DecoderLayer):
    """A Qwen3's layer."""


class ShapcutQwen3ForCausalLM(Qwen3ForCausalLM):
    """A Qwen3."""

    config_class = ShapcutQwen3Config
    _no_split_modules = ("ShapcutQwen3Layer",)

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        _replace_layers(self, ShapcutQwen3Layer)
