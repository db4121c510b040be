"""Config fields shared by tiny examples with the same mechanism."""

SLIDING_WINDOW = {
    "sliding_window": 5,
    "layer_types": [
        "sliding_attention",
        "sliding_attention",
        "full_attention",
        "sliding_attention",
        "full_attention",
        "sliding_attention",
    ],
}
"""Windows shorter than the example's sequences, and both kinds of layers."""

LATENT_ATTENTION = {
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 8,
    "v_head_dim": 8,
    "num_key_value_heads": 4,
}
"""Keys and values from a narrow latent state."""

DENSE_AND_MIXTURE = ["dense", "sparse", "sparse", "dense", "sparse", "sparse"]
"""Both kinds of feed-forward networks, in an irregular order."""

ROUTED_EXPERTS = {
    "n_routed_experts": 8,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 24,
    "n_group": 2,
    "topk_group": 1,
    "n_shared_experts": 1,
}
"""A mixture with a shared expert and router groups large enough to lose experts."""

INDEXER = {"index_topk": 4, "index_head_dim": 8, "index_n_heads": 16}
"""Fewer tokens than the sequences have, and enough heads to make all scores distinct."""
