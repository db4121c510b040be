"""Decoders whose layers depend on their index: shared keys, special first layers, scales."""

from shapcut_adapters.transformers.families.family import Family, Rebuild, Slices
from shapcut_adapters.transformers.families.rules import (
    IndexKeyed,
    LastKind,
    NeededFirst,
    NeededKind,
    NeverExact,
    Pinned,
    ScaledByDepth,
    SuffixCount,
)
from shapcut_adapters.transformers.families.tiny import (
    DENSE_AND_MIXTURE,
    INDEXER,
    LATENT_ATTENTION,
    ROUTED_EXPERTS,
)

_FULL, _SLIDING = "full_attention", "sliding_attention"
_MIXED = [_SLIDING, _SLIDING, _FULL, _SLIDING, _FULL, _SLIDING]
_TYPES = ("layer_types",)

_PRODUCERS = NeededKind("store", "kv_sharing_modes", "later layers use its keys and values")
_PER_LAYER_INPUTS = Rebuild(
    slices=(
        Slices("embed_tokens_per_layer.weight", 1),
        Slices("per_layer_model_projection.weight", 0),
    ),
    fields=("hidden_size_per_layer_input", "num_kv_shared_layers"),
)
_INKLING = {
    "head_dim": 8,
    "swa_num_key_value_heads": 2,
    "swa_head_dim": 8,
    "sliding_window_size": 5,
    "d_rel": 4,
    "rel_extent": 16,
    "conv_kernel_size": 3,
    "moe_intermediate_size": 24,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "layer_types": [
        "hybrid_sliding",
        "hybrid",
        "hybrid_sliding",
        "hybrid_sliding",
        "hybrid",
        "hybrid_sliding",
    ],
}
_GEMMA4 = {
    "num_hidden_layers": 8,
    "num_kv_shared_layers": 3,
    "head_dim": 8,
    "global_head_dim": 16,
    "sliding_window": 5,
    "layer_types": [_SLIDING, _FULL, _SLIDING, _SLIDING, _FULL, _SLIDING, _FULL, _FULL],
}

PLACE_FAMILIES: tuple[Family, ...] = (
    Family(
        "minicpm3",
        "MiniCPM3ForCausalLM",
        rules=(ScaledByDepth("scale_depth"),),
        tiny={**LATENT_ATTENTION, "scale_depth": 4.0, "dim_model_base": 16},
    ),
    Family(
        "modernbert-decoder",
        "ModernBertDecoderForCausalLM",
        per_layer_lists=_TYPES,
        rules=(
            Pinned((0,), "it has no norm before its attention, and whichever layer is first loses its own"),
        ),
        tiny={
            "layer_types": _MIXED,
            "local_attention": 8,
            "pad_token_id": 0,
            "bos_token_id": 1,
            "eos_token_id": 2,
        },
    ),
    Family(
        "inkling_text",
        "InklingForCausalLM",
        per_layer_lists=("layer_types", "mlp_layer_types"),
        tiny={
            **_INKLING,
            "mlp_layer_types": DENSE_AND_MIXTURE,
            "n_shared_experts": 1,
            "logits_mup_width_multiplier": 2.0,
        },
    ),
    Family(
        "gemma3n_text",
        "Gemma3nForCausalLM",
        per_layer_lists=("layer_types", "intermediate_size", "activation_sparsity_pattern"),
        rules=(SuffixCount("num_kv_shared_layers"), _PRODUCERS),
        rebuild=_PER_LAYER_INPUTS,
        tiny={
            "num_hidden_layers": 8,
            "num_kv_shared_layers": 3,
            "head_dim": 8,
            "sliding_window": 5,
            "vocab_size_per_layer_input": 96,
            "layer_types": [_SLIDING, _FULL, _SLIDING, _SLIDING, _FULL, _SLIDING, _FULL, _SLIDING],
            "hidden_size_per_layer_input": 4,
            "altup_num_inputs": 2,
            "laurel_rank": 4,
            "intermediate_size": [48, 40, 48, 40, 48, 40, 48, 40],
            "activation_sparsity_pattern": [0.9, 0.0, 0.5, 0.0, 0.0, 0.9, 0.0, 0.5],
        },
    ),
    Family(
        "gemma4_text",
        "Gemma4ForCausalLM",
        per_layer_lists=_TYPES,
        rules=(
            SuffixCount("num_kv_shared_layers"),
            IndexKeyed("per_layer_config"),
            _PRODUCERS,
            LastKind(_FULL, "layer_types"),
        ),
        rebuild=_PER_LAYER_INPUTS,
        tiny={
            **_GEMMA4,
            "hidden_size_per_layer_input": 4,
            "vocab_size_per_layer_input": 96,
            "enable_moe_block": True,
            "num_experts": 4,
            "top_k_experts": 2,
            "moe_intermediate_size": 24,
        },
    ),
    Family(
        "gemma4_unified_text",
        "Gemma4UnifiedForCausalLM",
        per_layer_lists=_TYPES,
        rules=(
            SuffixCount("num_kv_shared_layers"),
            IndexKeyed("per_layer_config"),
            _PRODUCERS,
            LastKind(_FULL, "layer_types"),
        ),
        rebuild=_PER_LAYER_INPUTS,
        tiny=_GEMMA4,
    ),
    Family(
        "hy_v4",
        "HYV4ForCausalLM",
        per_layer_lists=("mlp_layer_types", "layer_types", "indexer_types"),
        passed_on=("prev_topk_indices",),
        rules=(
            NeededFirst(
                "shared", "indexer_types", "its choice of tokens is what the first layers after it use"
            ),
        ),
        tiny={
            **LATENT_ATTENTION,
            **ROUTED_EXPERTS,
            **INDEXER,
            "mlp_layer_types": DENSE_AND_MIXTURE,
            "hc_mult": 2,
            "n_group": 1,
            "indexer_types": ["full", "shared", "full", "shared", "shared", "full"],
        },
    ),
    Family(
        "deepseek_v4",
        "DeepseekV4ForCausalLM",
        per_layer_lists=("mlp_layer_types", "layer_types"),
        tiny={
            "moe_intermediate_size": 24,
            "head_dim": 8,
            "q_lora_rank": 8,
            "num_experts_per_tok": 2,
            "n_routed_experts": 4,
            "hc_mult": 2,
            "num_key_value_heads": 1,
            "o_groups": 2,
            "o_lora_rank": 8,
            "index_n_heads": 16,
            "index_head_dim": 8,
            "index_topk": 4,
            "sliding_window": 5,
            "mlp_layer_types": ["hash_moe", "moe", "hash_moe", "moe", "moe", "moe"],
            "layer_types": [
                "sliding_attention",
                "compressed_sparse_attention",
                "heavily_compressed_attention",
                "compressed_sparse_attention",
                "sliding_attention",
                "heavily_compressed_attention",
            ],
            "compress_rates": {"compressed_sparse_attention": 2, "heavily_compressed_attention": 4},
        },
    ),
    Family(
        "diffllama",
        "DiffLlamaForCausalLM",
        rules=(
            NeverExact(
                "its differential attention is weighed by its index, so layers that move up would differ"
            ),
        ),
    ),
    Family(
        "beam",
        "BeamForCausalLM",
        per_layer_lists=("layer_types", "mlp_layer_types"),
        rules=(NeverExact("its residual is scaled by its index, so layers that move up would differ"),),
        tiny={
            "moe_intermediate_size": 24,
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "head_dim": 8,
            "n_group": 1,
            "topk_group": 1,
            "sliding_window": 5,
            "layer_types": _MIXED,
            "mlp_layer_types": DENSE_AND_MIXTURE,
        },
    ),
    Family(
        "hrm_text",
        "HrmTextForCausalLM",
        "model.L_module.layers",
        depth_field="num_layers_per_stack",
        rules=(NeverExact("two stacks, each run several times, are counted by one field of the config"),),
        tiny={"head_dim": 8, "num_hidden_layers": 6},
    ),
    Family(
        "inkling2_text",
        "Inkling2ForCausalLM",
        per_layer_lists=_TYPES,
        rules=(
            NeverExact(
                "it reads the outcomes of earlier groups of layers, whose bounds follow from the index"
            ),
        ),
        tiny={**_INKLING, "n_layers_per_attn_res_block": 2, "log_scaling_n_floor": 4},
    ),
    Family(
        "zaya",
        "ZayaForCausalLM",
        per_layer_lists=_TYPES,
        passed_on=("prev_router_hidden_states",),
        rules=(
            Pinned(
                (0,),
                "its router takes no state from a layer before it, and a new first layer loses that part",
            ),
        ),
        tiny={
            "num_experts": 4,
            "num_experts_per_tok": 1,
            "moe_intermediate_size": 24,
            "head_dim": 8,
            "router_hidden_size": 16,
            "sliding_window": 5,
            "layer_types": ["hybrid", "hybrid_sliding", "hybrid", "hybrid", "hybrid_sliding", "hybrid"],
        },
    ),
)
