"""Mixtures of experts whose dense layers come first or are listed."""

from shapcut_adapters.transformers.families.family import Family, Rebuild
from shapcut_adapters.transformers.families.rules import IndexKeyed, IndexRange, PrefixCount
from shapcut_adapters.transformers.families.tiny import (
    DENSE_AND_MIXTURE,
    INDEXER,
    LATENT_ATTENTION,
    ROUTED_EXPERTS,
)

_FULL, _SLIDING = "full_attention", "sliding_attention"
_MIXED = [_SLIDING, _SLIDING, _FULL, _SLIDING, _FULL, _SLIDING]
_DENSE_FIRST = PrefixCount("first_k_dense_replace")
_TYPES = ("layer_types",)

LISTED_MIXTURE_FAMILIES: tuple[Family, ...] = (
    Family(
        "deepseek_v2",
        "DeepseekV2ForCausalLM",
        rules=(_DENSE_FIRST,),
        tiny={
            **LATENT_ATTENTION,
            **ROUTED_EXPERTS,
            "first_k_dense_replace": 2,
            "topk_method": "group_limited_greedy",
        },
    ),
    Family(
        "deepseek_v3",
        "DeepseekV3ForCausalLM",
        rules=(_DENSE_FIRST,),
        tiny={**LATENT_ATTENTION, **ROUTED_EXPERTS, "first_k_dense_replace": 2},
    ),
    Family(
        "deepseek_v32",
        "DeepseekV32ForCausalLM",
        per_layer_lists=("mlp_layer_types", "layer_types"),
        tiny={
            **LATENT_ATTENTION,
            **ROUTED_EXPERTS,
            **INDEXER,
            "mlp_layer_types": ["dense", "dense", "sparse", "sparse", "sparse", "sparse"],
            "first_k_dense_replace": 2,
        },
    ),
    Family(
        "glm4_moe",
        "Glm4MoeForCausalLM",
        rules=(_DENSE_FIRST,),
        tiny={**ROUTED_EXPERTS, "first_k_dense_replace": 2, "head_dim": 8},
    ),
    Family(
        "glm4_moe_lite",
        "Glm4MoeLiteForCausalLM",
        per_layer_lists=("mlp_layer_types",),
        tiny={**LATENT_ATTENTION, **ROUTED_EXPERTS, "mlp_layer_types": DENSE_AND_MIXTURE},
    ),
    Family(
        "dots1",
        "Dots1ForCausalLM",
        per_layer_lists=_TYPES,
        rules=(_DENSE_FIRST,),
        tiny={**ROUTED_EXPERTS, "first_k_dense_replace": 2, "sliding_window": 5, "layer_types": _MIXED},
    ),
    Family(
        "afmoe",
        "AfmoeForCausalLM",
        per_layer_lists=_TYPES,
        rules=(PrefixCount("num_dense_layers"),),
        tiny={
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 24,
            "num_dense_layers": 2,
            "head_dim": 8,
            "sliding_window": 5,
            "layer_types": _MIXED,
        },
    ),
    Family(
        "ernie4_5_moe",
        "Ernie4_5_MoeForCausalLM",
        rules=(IndexRange("moe_layer_start_index", "moe_layer_end_index", "moe_layer_interval"),),
        tiny={
            "moe_k": 2,
            "moe_num_experts": 4,
            "moe_num_shared_experts": 1,
            "moe_intermediate_size": 24,
            "moe_layer_start_index": 1,
            "moe_layer_end_index": 4,
        },
    ),
    Family(
        "llama4_text",
        "Llama4ForCausalLM",
        per_layer_lists=("no_rope_layers", "layer_types"),
        index_lists=("moe_layers",),
        tiny={
            "num_local_experts": 4,
            "intermediate_size_mlp": 40,
            "head_dim": 8,
            "interleave_moe_layer_step": 2,
            "no_rope_layers": [1, 0, 1, 1, 0, 1],
            "attention_chunk_size": 5,
            "floor_scale": 4,
        },
    ),
    Family(
        "minimax_m2",
        "MiniMaxM2ForCausalLM",
        tiny={"num_local_experts": 4, "num_experts_per_tok": 2, "head_dim": 8},
    ),
    Family(
        "minimax_m3_vl_text",
        "MiniMaxM3VLForCausalLM",
        per_layer_lists=("mlp_layer_types", "layer_types"),
        tiny={
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
            "head_dim": 8,
            "dense_intermediate_size": 40,
            "rotary_dim": 4,
            "shared_intermediate_size": 24,
            "index_n_heads": 2,
            "index_head_dim": 8,
            "index_block_size": 4,
            "index_topk_blocks": 2,
            "mlp_layer_types": DENSE_AND_MIXTURE,
        },
    ),
    Family(
        "dots3_note_text",
        "Dots3NoteForCausalLM",
        per_layer_lists=("mlp_layer_types", "layer_types"),
        rules=(IndexKeyed("per_layer_config"),),
        tiny={
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 24,
            "num_key_value_heads": 4,
            "mlp_layer_types": DENSE_AND_MIXTURE,
            "kv_lora_rank": 16,
            "q_lora_rank": 16,
            "v_head_dim": 8,
            "shared_experts_intermediate_size": 24,
            "per_layer_config": {
                str(index): {"kv_lora_rank": 24, "qk_nope_head_dim": 192} for index in (2, 3, 4)
            },
        },
    ),
    Family(
        "longcat_flash",
        "LongcatFlashForCausalLM",
        depth_field="num_layers",
        rebuild=Rebuild(),
        tiny={
            **LATENT_ATTENTION,
            "head_dim": 8,
            "ffn_hidden_size": 40,
            "moe_topk": 2,
            "n_routed_experts": 4,
            "zero_expert_num": 2,
            "expert_ffn_hidden_size": 24,
        },
    ),
    Family(
        "dbrx",
        "DbrxForCausalLM",
        "transformer.blocks",
        depth_field="n_layers",
        tiny={
            "d_model": 32,
            "n_heads": 4,
            "max_seq_len": 64,
            "attn_config": {"kv_n_heads": 2, "clip_qkv": 8.0, "rope_theta": 10000.0},
            "ffn_config": {"hidden_size": 32, "ffn_hidden_size": 24, "moe_num_experts": 4, "moe_top_k": 2},
        },
    ),
)
