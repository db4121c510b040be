"""Decoder-only families that are claimed: where their layers are, and what follows the depth.

A family is claimed here only if its tiny example passes the whole conformance kit.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn
from transformers import PreTrainedModel

_SLIDING = "sliding_attention"
_FULL = "full_attention"
_MIXED = [_SLIDING, _SLIDING, _FULL, _SLIDING, _FULL, _SLIDING]


@dataclass(frozen=True, slots=True)
class Condition:
    """A setting without which a removal would not be exact."""

    field: str
    value: object
    otherwise: str


@dataclass(frozen=True, slots=True)
class Family:
    """One family of causal language models.

    Attributes:
        model_type: the config's ``model_type``.
        model_class: name of the transformers class with the language-model head.
        stack: dotted path of the ModuleList of layers.
        depth_field: config field that counts the layers.
        per_layer_lists: config fields with one entry a layer.
        index_lists: config fields that list layer indices.
        removal_needs: settings that a removal needs to be exact.
        tiny: config of the example, beside what all examples share.
    """

    model_type: str
    model_class: str
    stack: str = "model.layers"
    depth_field: str = "num_hidden_layers"
    per_layer_lists: tuple[str, ...] = ()
    index_lists: tuple[str, ...] = ()
    removal_needs: tuple[Condition, ...] = ()
    tiny: Mapping[str, Any] = field(default_factory=dict)


_INDEX_SCALED = Condition(
    "scale_attn_by_inverse_layer_idx",
    value=False,
    otherwise="attention is scaled by the layer's index, so layers that move up would compute something else",
)
_MIXTURE_STEP = Condition(
    "decoder_sparse_step",
    value=1,
    otherwise="which layers are mixtures follows from their index (decoder_sparse_step is not 1)",
)
_GPT2_SIZE = {"n_embd": 32, "n_layer": 6, "n_head": 4, "n_positions": 64}
_EXPERTS = {"num_experts_per_tok": 2, "router_jitter_noise": 0.0}

FAMILIES = (
    Family("llama", "LlamaForCausalLM"),
    Family("mistral", "MistralForCausalLM", tiny={"sliding_window": 5}),
    Family("qwen2", "Qwen2ForCausalLM", per_layer_lists=("layer_types",)),
    Family(
        "qwen3",
        "Qwen3ForCausalLM",
        per_layer_lists=("layer_types",),
        tiny={"head_dim": 8, "use_sliding_window": True, "sliding_window": 5, "max_window_layers": 3},
    ),
    Family("gemma", "GemmaForCausalLM", tiny={"head_dim": 8}),
    Family(
        "gemma2",
        "Gemma2ForCausalLM",
        per_layer_lists=("layer_types",),
        tiny={"head_dim": 8, "sliding_window": 5, "layer_types": _MIXED},
    ),
    Family(
        "gemma3_text",
        "Gemma3ForCausalLM",
        per_layer_lists=("layer_types",),
        tiny={"head_dim": 8, "sliding_window": 5, "layer_types": _MIXED},
    ),
    Family("gpt2", "GPT2LMHeadModel", "transformer.h", removal_needs=(_INDEX_SCALED,), tiny=_GPT2_SIZE),
    Family("gpt_neox", "GPTNeoXForCausalLM", "gpt_neox.layers"),
    Family(
        "opt",
        "OPTForCausalLM",
        "model.decoder.layers",
        tiny={"ffn_dim": 48, "word_embed_proj_dim": 32},
    ),
    Family("phi", "PhiForCausalLM"),
    Family("phi3", "Phi3ForCausalLM", tiny={"sliding_window": 5}),
    Family("olmo", "OlmoForCausalLM"),
    Family("olmo2", "Olmo2ForCausalLM"),
    Family(
        "olmo3",
        "Olmo3ForCausalLM",
        per_layer_lists=("layer_types",),
        tiny={"sliding_window": 5, "layer_types": _MIXED},
    ),
    Family(
        "smollm3",
        "SmolLM3ForCausalLM",
        per_layer_lists=("no_rope_layers", "layer_types"),
        tiny={"no_rope_layers": [1, 0, 1, 1, 0, 1]},
    ),
    Family("falcon", "FalconForCausalLM", "transformer.h"),
    Family("gptj", "GPTJForCausalLM", "transformer.h", tiny={**_GPT2_SIZE, "rotary_dim": 4}),
    Family("bloom", "BloomForCausalLM", "transformer.h", tiny={"n_layer": 6, "n_head": 4}),
    Family("cohere", "CohereForCausalLM"),
    Family(
        "cohere2",
        "Cohere2ForCausalLM",
        per_layer_lists=("layer_types",),
        tiny={"sliding_window": 5, "layer_types": _MIXED},
    ),
    Family("granite", "GraniteForCausalLM", tiny={"logits_scaling": 3.0, "residual_multiplier": 0.7}),
    Family("stablelm", "StableLmForCausalLM"),
    Family("starcoder2", "Starcoder2ForCausalLM", tiny={"sliding_window": 5}),
    Family("glm4", "Glm4ForCausalLM", tiny={"head_dim": 8}),
    Family("mixtral", "MixtralForCausalLM", tiny={"num_local_experts": 4, **_EXPERTS}),
    Family(
        "qwen3_moe",
        "Qwen3MoeForCausalLM",
        index_lists=("mlp_only_layers",),
        removal_needs=(_MIXTURE_STEP,),
        tiny={
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 24,
            "head_dim": 8,
            "mlp_only_layers": [1, 4],
        },
    ),
)

_FAMILY_OF_CLASS = {family.model_class: family for family in FAMILIES}


def family_of(model: nn.Module) -> Family | None:
    """The family of a model by its own class: wrappers, headless models and a hub's own code have none."""
    kind = type(model)
    family = _FAMILY_OF_CLASS.get(kind.__name__)
    if (
        family is None
        or not isinstance(model, PreTrainedModel)
        or kind.__module__.split(".")[0] != "transformers"
    ):
        return None
    return family if model.config.model_type == family.model_type else None
