"""Decoders whose feed-forward networks are mixtures of experts."""

from shapcut_adapters.families.family import Condition, Family

_MIXTURE_STEP = Condition(
    "decoder_sparse_step",
    value=1,
    otherwise="which layers are mixtures follows from their index (decoder_sparse_step is not 1)",
)
_EXPERTS = {"num_experts_per_tok": 2, "router_jitter_noise": 0.0}


MIXTURE_FAMILIES = (
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
