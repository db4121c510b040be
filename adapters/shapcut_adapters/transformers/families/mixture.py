"""Decoders whose feed-forward networks are mixtures of experts."""

from shapcut_adapters.transformers.families.family import Family
from shapcut_adapters.transformers.families.rules import EveryNth, NeededFirst
from shapcut_adapters.transformers.families.tiny import DENSE_AND_MIXTURE, LATENT_ATTENTION, SLIDING_WINDOW

_TYPES = ("layer_types",)
_MIXTURES = ("mlp_layer_types",)
_MIXTURES_BY_INDEX = EveryNth("decoder_sparse_step", "mlp_only_layers")
_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24, "head_dim": 8}
_LOCAL_EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}
_ROUTED_EXPERTS = {
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 24,
    "n_group": 1,
    "topk_group": 1,
}

MIXTURE_FAMILIES = (
    Family("mixtral", "MixtralForCausalLM", tiny={**_LOCAL_EXPERTS, "router_jitter_noise": 0.0}),
    Family(
        "qwen3_moe",
        "Qwen3MoeForCausalLM",
        rules=(_MIXTURES_BY_INDEX,),
        tiny={**_EXPERTS, "mlp_only_layers": [1, 4]},
    ),
    Family(
        "aria_text",
        "AriaTextForCausalLM",
        tiny={"head_dim": 8, "moe_num_experts": 4, "moe_topk": 2, "moe_num_shared_experts": 1},
    ),
    Family(
        "axk1",
        "AXK1ForCausalLM",
        per_layer_lists=_MIXTURES,
        tiny={**LATENT_ATTENTION, **_ROUTED_EXPERTS, "mlp_layer_types": DENSE_AND_MIXTURE},
    ),
    Family(
        "axk2",
        "AXK2ForCausalLM",
        per_layer_lists=("mlp_layer_types", "layer_types"),
        tiny={
            **LATENT_ATTENTION,
            **_ROUTED_EXPERTS,
            "mlp_layer_types": DENSE_AND_MIXTURE,
            "index_topk": 4,
            "index_head_dim": 8,
            "index_n_heads": 16,
            "gated_norm_rank": 4,
        },
    ),
    Family(
        "cohere2_moe",
        "Cohere2MoeForCausalLM",
        per_layer_lists=("layer_types", "mlp_layer_types"),
        tiny={**_EXPERTS, **SLIDING_WINDOW, "mlp_layer_types": DENSE_AND_MIXTURE},
    ),
    Family(
        "exaone_moe",
        "ExaoneMoeForCausalLM",
        per_layer_lists=("layer_types", "mlp_layer_types"),
        tiny={**_EXPERTS, **SLIDING_WINDOW, "mlp_layer_types": DENSE_AND_MIXTURE},
    ),
    Family("flex_olmo", "FlexOlmoForCausalLM", tiny={"num_experts": 4, "num_experts_per_tok": 2}),
    Family(
        "flint",
        "FlintForCausalLM",
        per_layer_lists=_TYPES,
        rules=(_MIXTURES_BY_INDEX,),
        tiny={**_EXPERTS, **SLIDING_WINDOW, "mlp_only_layers": [1, 4], "shared_expert_intermediate_size": 24},
    ),
    Family(
        "glm_moe_dsa",
        "GlmMoeDsaForCausalLM",
        per_layer_lists=("mlp_layer_types", "layer_types", "indexer_types"),
        passed_on=("prev_topk_indices",),
        rules=(
            NeededFirst("shared", "indexer_types", "its choice of tokens is what the layers after it use"),
        ),
        tiny={
            **LATENT_ATTENTION,
            **_ROUTED_EXPERTS,
            "mlp_layer_types": DENSE_AND_MIXTURE,
            "index_topk": 4,
            "index_head_dim": 8,
            "index_n_heads": 16,
        },
    ),
    Family(
        "gpt_oss",
        "GptOssForCausalLM",
        per_layer_lists=_TYPES,
        tiny={**_LOCAL_EXPERTS, **SLIDING_WINDOW, "head_dim": 8},
    ),
    Family("granitemoe", "GraniteMoeForCausalLM", tiny={**_LOCAL_EXPERTS, "residual_multiplier": 0.7}),
    Family(
        "granitemoe_swa",
        "GraniteMoeSWAForCausalLM",
        per_layer_lists=("layer_types", "layer_rope_theta"),
        tiny={
            **_LOCAL_EXPERTS,
            **SLIDING_WINDOW,
            "shared_intermediate_size": 24,
            "layer_rope_theta": [100.0, 200.0, 300.0, 400.0, 500.0, 600.0],
        },
    ),
    Family(
        "granitemoeshared",
        "GraniteMoeSharedForCausalLM",
        tiny={**_LOCAL_EXPERTS, "shared_intermediate_size": 24},
    ),
    Family(
        "hunyuan_v1_moe",
        "HunYuanMoEV1ForCausalLM",
        tiny={"head_dim": 8, "num_experts": 4, "moe_topk": 2},
    ),
    Family(
        "hy_v3",
        "HYV3ForCausalLM",
        per_layer_lists=_MIXTURES,
        tiny={**_EXPERTS, "mlp_layer_types": DENSE_AND_MIXTURE},
    ),
    Family(
        "jetmoe", "JetMoeForCausalLM", tiny={**_LOCAL_EXPERTS, "kv_channels": 8, "num_key_value_heads": 2}
    ),
    Family(
        "kolibri1",
        "Kolibri1ForCausalLM",
        per_layer_lists=_TYPES,
        tiny={
            **_LOCAL_EXPERTS,
            **SLIDING_WINDOW,
            "head_dim": 8,
            "moe_intermediate_size": 24,
            "shared_expert_intermediate_size": 24,
        },
    ),
    Family(
        "laguna",
        "LagunaForCausalLM",
        per_layer_lists=("layer_types", "num_attention_heads_per_layer", "mlp_layer_types"),
        tiny={
            **_EXPERTS,
            **SLIDING_WINDOW,
            "shared_expert_intermediate_size": 24,
            "num_attention_heads_per_layer": [4, 2, 4, 6, 2, 4],
            "mlp_layer_types": DENSE_AND_MIXTURE,
        },
    ),
    Family(
        "mellum",
        "MellumForCausalLM",
        per_layer_lists=("layer_types", "mlp_layer_types"),
        tiny={**_EXPERTS, **SLIDING_WINDOW, "mlp_layer_types": DENSE_AND_MIXTURE},
    ),
    Family(
        "mimo_v2_flash",
        "MiMoV2FlashForCausalLM",
        per_layer_lists=("layer_types", "mlp_layer_types"),
        tiny={
            **_ROUTED_EXPERTS,
            **SLIDING_WINDOW,
            "head_dim": 8,
            "v_head_dim": 8,
            "mlp_layer_types": DENSE_AND_MIXTURE,
            "hybrid_layer_pattern": [1, 1, 0, 1, 0, 1],
            "moe_layer_freq": [0, 1, 1, 0, 1, 1],
        },
    ),
    Family("olmoe", "OlmoeForCausalLM", tiny={"num_experts": 4, "num_experts_per_tok": 2}),
    Family(
        "phimoe",
        "PhimoeForCausalLM",
        tiny={**_LOCAL_EXPERTS, "sliding_window": 5, "router_jitter_noise": 0.0},
    ),
    Family(
        "qwen2_moe",
        "Qwen2MoeForCausalLM",
        per_layer_lists=_TYPES,
        rules=(_MIXTURES_BY_INDEX,),
        tiny={**_EXPERTS, "mlp_only_layers": [1, 4], "shared_expert_intermediate_size": 24},
    ),
    Family("solar_open", "SolarOpenForCausalLM", tiny={**_ROUTED_EXPERTS, "head_dim": 8}),
)
