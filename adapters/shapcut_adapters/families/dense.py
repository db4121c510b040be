"""Decoders whose layers are all attention and one feed-forward network."""

from shapcut_adapters.families.family import Condition, Family

_SLIDING = "sliding_attention"
_FULL = "full_attention"
_MIXED = [_SLIDING, _SLIDING, _FULL, _SLIDING, _FULL, _SLIDING]
_INDEX_SCALED = Condition(
    "scale_attn_by_inverse_layer_idx",
    value=False,
    otherwise="attention is scaled by the layer's index, so layers that move up would compute something else",
)
_GPT2_SIZE = {"n_embd": 32, "n_layer": 6, "n_head": 4, "n_positions": 64}

DENSE_FAMILIES = (
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
)
