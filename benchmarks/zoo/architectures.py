"""The architectures of the zoo: configuration, class and first weights of each."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from rwkv7_hf import RWKV7Config, RWKV7ForCausalLM
from torch import Tensor, nn
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    Mamba2Config,
    Mamba2ForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    PreTrainedModel,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
    RwkvConfig,
    RwkvForCausalLM,
)


@dataclass(frozen=True, slots=True)
class Architecture:
    """What is needed to build a model and to find its blocks.

    Attributes:
        config_class: of the configuration.
        model_class: of the causal language model.
        blocks: dotted path of the list of blocks.
        prepare: changes first weights that the class itself leaves unfit for training.
    """

    config_class: Any
    model_class: Any
    blocks: str
    prepare: Callable[[Any], None] | None = None

    def build(self, config: dict[str, Any], seed: int) -> PreTrainedModel:
        """An untrained model in float32; the same one for the same seed."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model: PreTrainedModel = self.model_class(self.config_class(**config))
            if self.prepare is not None:
                self.prepare(model)
        return model

    def blocks_of(self, model: nn.Module) -> list[nn.Module]:
        """The blocks in their order."""
        return list(model.get_submodule(self.blocks).children())


def _prepare_rwkv7(model: RWKV7ForCausalLM) -> None:
    """Zero would make the normalization of the key singular and every token shift the identity.

    The values follow the roles that the RWKV-7 paper (arXiv:2503.14456) gives them: a decay that runs from
    slow to fast over the channels of a head, token shifts that differ by channel, residual outputs near zero.
    """
    hidden = model.config.hidden_size
    channel = torch.arange(hidden) / hidden
    with torch.no_grad():
        model.model.embeddings.weight.uniform_(-0.02, 0.02)
        for index, block in enumerate(model.model.layers):
            depth = 1 - index / len(model.model.layers)
            _prepare_time_mix(block.attn, channel, depth)
            block.ffn.x_k.copy_(1 - channel**depth)
            nn.init.orthogonal_(block.ffn.key.weight)
            block.ffn.value.weight.mul_(0.5)
        nn.init.orthogonal_(model.lm_head.weight, gain=0.5)


def _prepare_time_mix(attention: Any, channel: Tensor, depth: float) -> None:
    for name, exponent in {"r": 0.2, "w": 0.9, "k": 0.7, "v": 0.7, "a": 0.9, "g": 0.2}.items():
        getattr(attention, f"x_{name}").copy_(1 - channel ** (exponent * depth))
    attention.k_k.fill_(0.85)
    attention.k_a.fill_(1.0)
    within_head = torch.arange(attention.head_dim) / (attention.head_dim - 1)
    attention.w_lora.lora[2].bias.copy_((-6 + 6 * within_head).repeat(attention.num_heads))
    for name in ("r_proj", "k_proj", "v_proj"):
        nn.init.orthogonal_(getattr(attention, name).weight)
    for name in ("w_lora", "a_lora", "g_lora"):
        nn.init.orthogonal_(getattr(attention, name).lora[2].weight, gain=0.5)
    nn.init.orthogonal_(attention.g_lora.lora[0].weight)


ARCHITECTURES = {
    "llama": Architecture(LlamaConfig, LlamaForCausalLM, "model.layers"),
    "mamba": Architecture(MambaConfig, MambaForCausalLM, "backbone.layers"),
    "mamba2": Architecture(Mamba2Config, Mamba2ForCausalLM, "backbone.layers"),
    "mixtral": Architecture(MixtralConfig, MixtralForCausalLM, "model.layers"),
    "qwen3moe": Architecture(Qwen3MoeConfig, Qwen3MoeForCausalLM, "model.layers"),
    "rwkv4": Architecture(RwkvConfig, RwkvForCausalLM, "rwkv.blocks"),
    "rwkv7": Architecture(RWKV7Config, RWKV7ForCausalLM, "model.layers", _prepare_rwkv7),
}
