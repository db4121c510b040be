"""Decoders whose layers depend on their place: dense ones first, shared keys, scales by index or depth."""

from shapcut_adapters.families.family import Family, Rebuild, Slices
from shapcut_adapters.families.rules import (
    Condition,
    IndexKeyed,
    IndexList,
    IndexRange,
    Pinned,
    PrefixCount,
    ScaledByDepth,
    SuffixCount,
)

_FULL, _SLIDING = "full_attention", "sliding_attention"
_MIXED = [_SLIDING, _SLIDING, _FULL, _SLIDING, _FULL, _SLIDING]
_DENSE_FIRST = PrefixCount("first_k_dense_replace")
_TYPES = ("layer_types",)
_DENSE_AND_SPARSE = ["dense", "sparse", "sparse", "dense", "sparse", "sparse"]
_ROUTED = {
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 24,
    "n_group": 2,
    "topk_group": 1,
    "n_shared_experts": 1,
}
_LATENT = {
    "kv_lora_rank": 8,
    "q_lora_rank": 8,
    "qk_nope_head_dim": 4,
    "qk_rope_head_dim": 4,
    "v_head_dim": 8,
    "num_key_value_heads": 4,
}
_INDEXER = {"index_topk": 4, "index_head_dim": 8, "index_n_heads": 16}

PLACE_FAMILIES: tuple[Family, ...] = (
    Family(
        "deepseek_v2", "DeepseekV2ForCausalLM", rules=(_DENSE_FIRST,),
        tiny={**_LATENT, **_ROUTED, "first_k_dense_replace": 2, "topk_method": "group_limited_greedy"},
    ),
    Family(
        "deepseek_v3", "DeepseekV3ForCausalLM", rules=(_DENSE_FIRST,),
        tiny={**_LATENT, **_ROUTED, "first_k_dense_replace": 2},
    ),
    Family(
        "deepseek_v32", "DeepseekV32ForCausalLM", per_layer_lists=("mlp_layer_types", "layer_types"),
        tiny={**_LATENT, **_ROUTED, **_INDEXER, "mlp_layer_types": _DENSE_AND_SPARSE},
    ),
    Family(
        "glm4_moe", "Glm4MoeForCausalLM", rules=(_DENSE_FIRST,),
        tiny={**_ROUTED, "first_k_dense_replace": 2, "head_dim": 8},
    ),
    Family(
        "glm4_moe_lite", "Glm4MoeLiteForCausalLM", per_layer_lists=("mlp_layer_types",),
        tiny={**_LATENT, **_ROUTED, "mlp_layer_types": _DENSE_AND_SPARSE},
    ),
    Family(
        "dots1", "Dots1ForCausalLM", per_layer_lists=_TYPES, rules=(_DENSE_FIRST,),
        tiny={**_ROUTED, "first_k_dense_replace": 2, "sliding_window": 5, "layer_types": _MIXED},
    ),
    Family(
        "afmoe", "AfmoeForCausalLM", per_layer_lists=_TYPES, rules=(PrefixCount("num_dense_layers"),),
        tiny={
            "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24, "num_dense_layers": 2, "head_dim": 8,
            "sliding_window": 5, "layer_types": _MIXED,
        },
    ),
    Family(
        "ernie4_5_moe", "Ernie4_5_MoeForCausalLM",
        rules=(IndexRange("moe_layer_start_index", "moe_layer_end_index", "moe_layer_interval"),),
        tiny={
            "moe_k": 2, "moe_num_experts": 4, "moe_num_shared_experts": 1, "moe_intermediate_size": 24,
            "moe_layer_start_index": 1, "moe_layer_end_index": 4,
        },
    ),
    Family(
        "llama4_text", "Llama4ForCausalLM", per_layer_lists=("no_rope_layers", "layer_types"), index_lists=("moe_layers",),
        tiny={
            "num_local_experts": 4, "intermediate_size_mlp": 40, "head_dim": 8, "interleave_moe_layer_step": 2,
            "no_rope_layers": [1, 0, 1, 1, 0, 1], "attention_chunk_size": 5, "floor_scale": 4,
        },
    ),
    Family("minimax_m2", "MiniMaxM2ForCausalLM", tiny={"num_local_experts": 4, "num_experts_per_tok": 2, "head_dim": 8}),
    Family(
        "minimax_m3_vl_text", "MiniMaxM3VLForCausalLM", per_layer_lists=("mlp_layer_types", "layer_types"),
        tiny={
            "num_local_experts": 4, "num_experts_per_tok": 2, "head_dim": 8, "dense_intermediate_size": 40, "rotary_dim": 4,
            "shared_intermediate_size": 24, "index_n_heads": 2, "index_head_dim": 8, "index_block_size": 4, "index_topk_blocks": 2,
            "mlp_layer_types": _DENSE_AND_SPARSE,
        },
    ),
    Family(
        "dots3_note_text", "Dots3NoteForCausalLM", per_layer_lists=("mlp_layer_types", "layer_types"), rules=(IndexKeyed("per_layer_config"),),
        tiny={
            "num_local_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24, "num_key_value_heads": 4,
            "mlp_layer_types": _DENSE_AND_SPARSE,
        },
    ),
    Family(
        "minicpm3", "MiniCPM3ForCausalLM", rules=(ScaledByDepth("scale_depth"),),
        tiny={**_LATENT, "scale_depth": 1.4, "dim_model_base": 16},
    ),
    Family(
        "modernbert-decoder", "ModernBertDecoderForCausalLM", per_layer_lists=_TYPES,
        rules=(Pinned((0,), "it has no norm before its attention, and whichever layer is first loses its own"),),
        tiny={"layer_types": _MIXED, "local_attention": 8, "pad_token_id": 0},
    ),
    Family(
        "inkling_text", "InklingForCausalLM", per_layer_lists=("layer_types", "mlp_layer_types"),
        tiny={
            "head_dim": 8, "swa_num_key_value_heads": 2, "swa_head_dim": 8, "sliding_window_size": 5, "d_rel": 4, "rel_extent": 16,
            "conv_kernel_size": 3, "mlp_layer_types": _DENSE_AND_SPARSE, "moe_intermediate_size": 24, "n_routed_experts": 4,
            "num_experts_per_tok": 2, "n_shared_experts": 1, "logits_mup_width_multiplier": 2.0,
            "layer_types": ["hybrid_sliding", "hybrid", "hybrid_sliding", "hybrid_sliding", "hybrid", "hybrid_sliding"],
        },
    ),
    Family(
        "zaya", "ZayaForCausalLM", per_layer_lists=_TYPES, passed_on=("prev_router_hidden_states",),
        rules=(Pinned((0,), "its router takes no state from a layer before it, and whichever layer is first loses that part"),),
        tiny={
            "num_experts": 4, "num_experts_per_tok": 1, "moe_intermediate_size": 24, "head_dim": 8, "router_hidden_size": 16,
            "sliding_window": 5, "layer_types": ["hybrid", "hybrid_sliding", "hybrid", "hybrid", "hybrid_sliding", "hybrid"],
        },
    ),
)
