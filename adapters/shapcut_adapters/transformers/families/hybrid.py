"""Decoders with other token mixers beside or instead of attention."""

from typing import Any

from torch import nn

from shapcut_adapters.transformers.families.family import Family, Ordinals, Rebuild
from shapcut_adapters.transformers.families.rules import (
    AtLeast,
    Condition,
    Count,
    CyclicOrder,
    EveryNth,
    IndexList,
    Periodic,
    PerLayerList,
    PrefixCount,
)

_LINEAR, _FULL, _CONV, _SLIDING = "linear_attention", "full_attention", "conv", "sliding_attention"
_CACHE_NEEDS = "transformers' cache counts positions on an attention layer"
_ATTENTION = AtLeast(1, (_FULL, _SLIDING), "layer_types", _CACHE_NEEDS)
_TYPES = [_LINEAR, _FULL, _LINEAR, _LINEAR, _FULL, _LINEAR]
_MAMBA = {"state_size": 6, "expand": 2, "conv_kernel": 3, "rms_norm": False}
_MAMBA2_SIZE = {
    "mamba_n_heads": 8,
    "mamba_d_head": 8,
    "mamba_d_state": 6,
    "mamba_d_conv": 3,
    "mamba_chunk_size": 4,
}
_DELTA_SIZE = {
    "head_dim": 8,
    "linear_conv_kernel_dim": 3,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
}
_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24}


def _without_rescaling(model: nn.Module) -> None:
    """Undo the in-place division of weights by the first forward pass in evaluation mode, and prevent it.

    With it, saving and removal would go wrong by powers of two; without it only float16 may overflow.
    """
    parts: Any = model
    if parts.rwkv.layers_are_rescaled:
        training = parts.training
        parts.rwkv.train()._rescale_layers()  # noqa: SLF001 - transformers has no public way back
        parts.train(training)
    parts.config.rescale_every = 0


HYBRID_FAMILIES: tuple[Family, ...] = (
    Family("mamba", "MambaForCausalLM", "backbone.layers", tiny=_MAMBA),
    Family(
        "mamba2",
        "Mamba2ForCausalLM",
        "backbone.layers",
        tiny={
            "state_size": 6,
            "expand": 2,
            "num_heads": 8,
            "head_dim": 8,
            "n_groups": 2,
            "conv_kernel": 3,
            "chunk_size": 4,
        },
    ),
    Family("falcon_mamba", "FalconMambaForCausalLM", "backbone.layers", tiny=_MAMBA),
    Family(
        "rwkv",
        "RwkvForCausalLM",
        "rwkv.blocks",
        removal_needs=(
            Condition(
                "rescale_every", 0, "weights are divided in place by a power of two that follows the index"
            ),
        ),
        entrance="pre_ln",
        passed_on=("state",),
        decodes_singly=True,
        canonicalise=_without_rescaling,
        tiny={"attention_hidden_size": 32, "rescale_every": 2, "context_length": 64},
    ),
    Family(
        "xlstm",
        "xLSTMForCausalLM",
        "backbone.blocks",
        rules=(Count("num_blocks"),),
        tiny={
            "hidden_size": 64,
            "num_heads": 2,
            "num_blocks": 6,
            "qk_dim_factor": 1.0,
            "v_dim_factor": 1.0,
            "chunk_size": 4,
            "ffn_round_up_to_multiple_of": 8,
            "chunkwise_kernel": "chunkwise--native_autograd",
            "sequence_kernel": "native_sequence__native",
            "step_kernel": "native",
            "mode": "inference",
        },
    ),
    Family(
        "falcon_h1",
        "FalconH1ForCausalLM",
        tiny={**_MAMBA2_SIZE, "mamba_d_ssm": 64, "head_dim": 8, "mamba_rms_norm": True},
    ),
    Family(
        "jamba",
        "JambaForCausalLM",
        rules=(
            Periodic("attn_layer_period", "attn_layer_offset"),
            Periodic("expert_layer_period", "expert_layer_offset"),
            _ATTENTION,
        ),
        tiny={
            "num_hidden_layers": 8,
            "attn_layer_period": 4,
            "attn_layer_offset": 2,
            "expert_layer_period": 2,
            "expert_layer_offset": 1,
            "num_experts": 4,
            "mamba_d_state": 6,
            "mamba_d_conv": 3,
            "mamba_dt_rank": 4,
        },
    ),
    Family(
        "bamba",
        "BambaForCausalLM",
        rules=(IndexList("attn_layer_indices"), _ATTENTION),
        tiny={**_MAMBA2_SIZE, "attn_layer_indices": [1, 4]},
    ),
    Family(
        "zamba",
        "ZambaForCausalLM",
        independent_fields=("attn_layer_period",),
        per_layer_lists=("layers_block_type",),
        rules=(AtLeast(2, ("hybrid",), "layers_block_type", "transformers ties the first with the others"),),
        rebuild=Rebuild(),
        tiny={
            "layers_block_type": [_LINEAR, "hybrid", _LINEAR, "hybrid", _LINEAR, "hybrid"],
            "mamba_d_state": 6,
            "mamba_d_conv": 3,
            "mamba_dt_rank": 4,
            "n_mamba_heads": 2,
        },
    ),
    Family(
        "zamba2",
        "Zamba2ForCausalLM",
        per_layer_lists=("layers_block_type",),
        rules=(IndexList("hybrid_layer_ids"), CyclicOrder("num_mem_blocks", "layers_block_type", "hybrid")),
        rebuild=Rebuild(ordinals=(Ordinals(r"adapter_list\.(\d+)\.", "layers_block_type", "hybrid"),)),
        tiny={
            "layers_block_type": [
                _LINEAR,
                "hybrid",
                _LINEAR,
                "hybrid",
                "hybrid",
                _LINEAR,
                "hybrid",
                "hybrid",
            ],
            "num_hidden_layers": 8,
            "mamba_d_state": 6,
            "mamba_d_conv": 3,
            "n_mamba_heads": 8,
            "mamba_ngroups": 2,
            "chunk_size": 4,
            "num_mem_blocks": 2,
            "time_step_min": 1e-12,
            "num_key_value_heads": 4,
            "use_shared_attention_adapter": True,
            "adapter_rank": 4,
        },
    ),
    Family(
        "nemotron_h",
        "NemotronHForCausalLM",
        per_layer_lists=("layers_block_type",),
        rules=(AtLeast(1, (_FULL,), "layers_block_type", _CACHE_NEEDS),),
        tiny={
            "layers_block_type": [_LINEAR, "mlp", _FULL, "moe", _LINEAR, _FULL, "moe", "mlp"],
            "num_hidden_layers": 8,
            "head_dim": 8,
            "ssm_state_size": 6,
            "mamba_num_heads": 8,
            "mamba_head_dim": 8,
            "n_groups": 2,
            "conv_kernel": 3,
            "chunk_size": 4,
            "time_step_min": 1e-12,
            "n_routed_experts": 4,
            "moe_intermediate_size": 24,
            "moe_shared_expert_intermediate_size": 24,
        },
    ),
    Family(
        "granitemoehybrid",
        "GraniteMoeHybridForCausalLM",
        per_layer_lists=("layer_types",),
        rules=(_ATTENTION,),
        tiny={**_MAMBA2_SIZE, "layer_types": _TYPES, "num_local_experts": 4, "shared_intermediate_size": 24},
    ),
    Family(
        "qwen3_next",
        "Qwen3NextForCausalLM",
        per_layer_lists=("layer_types",),
        rules=(_ATTENTION, EveryNth("decoder_sparse_step", "mlp_only_layers")),
        tiny={
            **_DELTA_SIZE,
            **_EXPERTS,
            "layer_types": _TYPES,
            "decoder_sparse_step": 2,
            "shared_expert_intermediate_size": 24,
        },
    ),
    Family(
        "qwen3_5_text",
        "Qwen3_5ForCausalLM",
        per_layer_lists=("layer_types",),
        rules=(_ATTENTION,),
        tiny={**_DELTA_SIZE, "layer_types": _TYPES},
    ),
    Family(
        "qwen3_5_moe_text",
        "Qwen3_5MoeForCausalLM",
        per_layer_lists=("layer_types",),
        rules=(_ATTENTION,),
        tiny={**_DELTA_SIZE, **_EXPERTS, "layer_types": _TYPES, "shared_expert_intermediate_size": 24},
    ),
    Family(
        "lfm2",
        "Lfm2ForCausalLM",
        per_layer_lists=("layer_types",),
        index_lists=("full_attn_idxs",),
        rules=(_ATTENTION,),
        tiny={"full_attn_idxs": [1, 4], "block_multiple_of": 8},
    ),
    Family(
        "lfm2_moe",
        "Lfm2MoeForCausalLM",
        per_layer_lists=("layer_types",),
        rules=(_ATTENTION, PrefixCount("num_dense_layers")),
        tiny={**_EXPERTS, "layer_types": [_CONV, _FULL, _CONV, _CONV, _FULL, _CONV], "num_dense_layers": 2},
    ),
    Family(
        "lfm3",
        "Lfm3ForCausalLM",
        per_layer_lists=("layer_types",),
        rules=(_ATTENTION,),
        tiny={
            "layer_types": [_CONV, _SLIDING, _FULL, _CONV, _SLIDING, _FULL],
            "head_dim": 8,
            "sliding_window": 5,
        },
    ),
    Family(
        "olmo_hybrid",
        "OlmoHybridForCausalLM",
        per_layer_lists=("layer_types",),
        rules=(_ATTENTION,),
        tiny={**_DELTA_SIZE, "layer_types": _TYPES},
    ),
    Family(
        "bailing_hybrid",
        "BailingHybridForCausalLM",
        independent_fields=("layer_group_size",),
        per_layer_lists=("layer_types", "mlp_layer_types"),
        rules=(_ATTENTION,),
        tiny={
            "layer_types": _TYPES,
            "moe_intermediate_size": 24,
            "kv_lora_rank": 8,
            "qk_rope_head_dim": 4,
            "v_head_dim": 8,
            "qk_nope_head_dim": 4,
            "n_group": 2,
            "topk_group": 1,
            "num_experts_per_tok": 2,
            "num_local_experts": 8,
            "head_dim": 8,
            "short_conv_kernel_size": 3,
            "first_k_dense_replace": 2,
        },
    ),
    Family(
        "minimax",
        "MiniMaxForCausalLM",
        per_layer_lists=("layer_types",),
        rules=(_ATTENTION,),
        tiny={
            "layer_types": _TYPES,
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
            "block_size": 4,
            "head_dim": 8,
        },
    ),
    Family(
        "kimi_linear",
        "KimiLinearForCausalLM",
        per_layer_lists=("layer_types", "mlp_layer_types"),
        rules=(_ATTENTION,),
        tiny={
            "layer_types": _TYPES,
            "mlp_layer_types": ["dense", "sparse", "sparse", "dense", "sparse", "sparse"],
            "moe_intermediate_size": 24,
            "kv_lora_rank": 8,
            "qk_rope_head_dim": 4,
            "v_head_dim": 8,
            "qk_nope_head_dim": 4,
            "num_experts_per_tok": 2,
            "num_local_experts": 4,
            "linear_head_dim": 8,
            "linear_num_heads": 4,
            "first_k_dense_replace": 1,
            "linear_attn_config": {"kda_layers": [1, 3, 4, 6], "full_attn_layers": [2, 5]},
        },
    ),
    Family(
        "recurrent_gemma",
        "RecurrentGemmaForCausalLM",
        rules=(
            PerLayerList(
                "block_types", "layers_block_type", ((_LINEAR, "recurrent"), (_SLIDING, "attention"))
            ),
            AtLeast(1, (_SLIDING,), "layers_block_type", _CACHE_NEEDS),
        ),
        tiny={
            "block_types": ["recurrent", "recurrent", "attention"],
            "lru_width": 32,
            "attention_window_size": 8,
            "conv1d_width": 3,
        },
    ),
)
