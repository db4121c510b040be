"""Multimodal models whose language model is pruned: the kinds that were tried, and their text families."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from shapcut_adapters.transformers.families.family import Family
from shapcut_adapters.transformers.families.rules import EveryNth

_TYPES = ("layer_types",)
_TEXT = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}
_MROPE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 1, 1]}
_VISION = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 16,
    "patch_size": 4,
}
_QWEN_VISION = {
    "depth": 3,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_heads": 2,
    "out_hidden_size": 32,
    "patch_size": 4,
    "temporal_patch_size": 1,
}
_QWEN_TOKENS = {
    "image_token_id": 90,
    "video_token_id": 91,
    "vision_start_token_id": 92,
    "vision_end_token_id": 93,
}
_WINDOWS = {"sliding_window": 5, "layer_types": ["sliding_attention", "full_attention"] * 3}
_LINEAR = {
    "linear_conv_kernel_dim": 3,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "layer_types": ["linear_attention", "full_attention"] * 3,
    "rope_parameters": {**_MROPE, "partial_rotary_factor": 1.0},
}
_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24}


@dataclass(frozen=True, slots=True)
class Wrapper:
    """A kind of multimodal model.

    Attributes:
        model_type: the ``model_type`` of the whole config.
        text: fields of the example's language model, in addition to the shared ones.
        vision: fields of the example's vision tower.
        fields: other fields of the example.
        needs: packages that its other towers are built with.
    """

    model_type: str
    text: Mapping[str, Any] = field(default_factory=dict)
    vision: Mapping[str, Any] = field(default_factory=dict)
    fields: Mapping[str, Any] = field(default_factory=dict)
    needs: tuple[str, ...] = ()

    def config_fields(self) -> dict[str, Any]:
        """All fields of the example's config."""
        return {
            "text_config": {**_TEXT, **self.text},
            "vision_config": dict(self.vision),
            **self.fields,
        }


WRAPPERS = (
    Wrapper(
        "gemma3",
        {"model_type": "gemma3_text", **_WINDOWS, "vocab_size": 97},
        {"model_type": "siglip_vision_model", **_VISION, "vision_use_head": False},
        {"image_token_index": 90, "boi_token_index": 92, "eoi_token_index": 93, "mm_tokens_per_image": 4},
    ),
    Wrapper(
        "mistral3",
        {"model_type": "mistral"},
        {"model_type": "pixtral", **_VISION, "head_dim": 8},
        {"image_token_index": 90, "spatial_merge_size": 2, "vision_feature_layer": -1},
    ),
    Wrapper(
        "qwen2_vl",
        {"rope_parameters": _MROPE},
        {
            "depth": 2,
            "embed_dim": 16,
            "hidden_size": 32,
            "mlp_ratio": 2,
            "num_heads": 2,
            "patch_size": 4,
            "temporal_patch_size": 1,
        },
        _QWEN_TOKENS,
    ),
    Wrapper(
        "qwen2_5_vl",
        {"rope_parameters": _MROPE},
        {**_QWEN_VISION, "window_size": 16, "fullatt_block_indexes": [1]},
        _QWEN_TOKENS,
    ),
    Wrapper(
        "qwen3_vl",
        {"rope_parameters": _MROPE},
        {**_QWEN_VISION, "num_position_embeddings": 16, "deepstack_visual_indexes": [0, 1]},
        _QWEN_TOKENS,
    ),
    Wrapper(
        "qwen3_vl_moe",
        {"rope_parameters": _MROPE, **_EXPERTS},
        {**_QWEN_VISION, "num_position_embeddings": 16, "deepstack_visual_indexes": [0, 1]},
        _QWEN_TOKENS,
    ),
    Wrapper("qwen3_5", _LINEAR, {**_QWEN_VISION, "num_position_embeddings": 16}, _QWEN_TOKENS),
    Wrapper(
        "qwen3_5_moe",
        {**_LINEAR, **_EXPERTS, "shared_expert_intermediate_size": 24},
        {**_QWEN_VISION, "num_position_embeddings": 16},
        _QWEN_TOKENS,
    ),
    Wrapper(
        "llama4",
        {
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
            "intermediate_size_mlp": 40,
            "interleave_moe_layer_step": 2,
            "attention_chunk_size": 16,
        },
        {
            **_VISION,
            "intermediate_size": 64,
            "vision_output_dim": 24,
            "projector_input_dim": 24,
            "projector_output_dim": 24,
            "pixel_shuffle_ratio": 0.5,
        },
        {"image_token_index": 90},
    ),
    Wrapper(
        "llava",
        {"model_type": "llama"},
        {"model_type": "clip_vision_model", **_VISION},
        {"image_token_index": 90},
    ),
    Wrapper(
        "llava_onevision",
        {"model_type": "qwen2"},
        {"model_type": "siglip_vision_model", **_VISION, "vision_use_head": False},
        {
            "image_token_index": 90,
            "video_token_index": 91,
            "vision_feature_layer": -1,
            "image_grid_pinpoints": [[16, 16]],
        },
    ),
    Wrapper(
        "smolvlm",
        {"model_type": "llama"},
        {"model_type": "smolvlm_vision", **_VISION},
        {"image_token_id": 90, "scale_factor": 2, "pad_token_id": 0},
    ),
    Wrapper(
        "internvl",
        {"model_type": "qwen2"},
        {"model_type": "internvl_vision", **_VISION, "image_size": [16, 16], "patch_size": [4, 4]},
        {"image_token_id": 90, "image_seq_length": 4},
    ),
    Wrapper(
        "gemma4",
        {
            **_WINDOWS,
            "global_head_dim": 8,
            "num_kv_shared_layers": 2,
            "hidden_size_per_layer_input": 4,
            "vocab_size_per_layer_input": 96,
            "pad_token_id": 0,
        },
        {
            **_VISION,
            "num_key_value_heads": 2,
            "head_dim": 8,
            "pooling_kernel_size": 2,
            "position_embedding_size": 8,
        },
        {
            "image_token_id": 90,
            "video_token_id": 91,
            "audio_token_id": 89,
            "boi_token_id": 92,
            "eoi_token_id": 93,
        },
    ),
    Wrapper(
        "gemma3n",
        {
            **_WINDOWS,
            "num_kv_shared_layers": 2,
            "hidden_size_per_layer_input": 4,
            "vocab_size_per_layer_input": 90,
            "altup_num_inputs": 2,
            "laurel_rank": 4,
            "activation_sparsity_pattern": [0.9, 0.0, 0.5, 0.0, 0.0, 0.9],
            "pad_token_id": 0,
        },
        {
            "architecture": "mobilenetv5_300m_enc",
            "model_args": {"msfa_output_resolution": 2},
            "hidden_size": 2048,
            "vocab_size": 2,
            "vocab_offset": 90,
        },
        {
            "audio_config": {
                "vocab_size": 4,
                "vocab_offset": 92,
                "hidden_size": 32,
                "conf_num_hidden_layers": 1,
                "conf_num_attention_heads": 2,
                "input_feat_size": 16,
            },
            "image_token_id": 90,
            "audio_token_id": 92,
            "vision_soft_tokens_per_image": 4,
        },
        needs=("timm", "torchvision"),
    ),
)

TEXT_FAMILIES = (
    Family("qwen2_vl_text", "", per_layer_lists=_TYPES),
    Family("qwen2_5_vl_text", "", per_layer_lists=_TYPES),
    Family("qwen3_vl_text", ""),
    Family("qwen3_vl_moe_text", "", rules=(EveryNth("decoder_sparse_step", "mlp_only_layers"),)),
)
"""Language models that transformers has only inside a multimodal one."""

_KNOWN = {wrapper.model_type for wrapper in WRAPPERS}


def is_wrapper(model: nn.Module) -> bool:
    """Whether a model is a multimodal one with its own class of transformers."""
    config: Any = getattr(model, "config", None)
    named = type(model).__name__.endswith("ForConditionalGeneration")
    return named and getattr(config, "model_type", "") in _KNOWN and hasattr(config, "text_config")


def deepstack_layers(model: nn.Module) -> int:
    """How many first layers have features of the image added behind them, by their number."""
    vision: Any = getattr(getattr(model, "config", None), "vision_config", None)
    return len(getattr(vision, "deepstack_visual_indexes", None) or ()) if is_wrapper(model) else 0
