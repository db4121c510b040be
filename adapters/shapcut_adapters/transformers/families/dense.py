"""Decoders whose layers are all attention plus one feed-forward network."""

from shapcut_adapters.transformers.families.family import Family
from shapcut_adapters.transformers.families.rules import Condition, PerLayerList, Pinned
from shapcut_adapters.transformers.families.tiny import LATENT_ATTENTION, SLIDING_WINDOW

_TYPES = ("layer_types",)
_WINDOW = SLIDING_WINDOW
_GPT_NEO_TYPES = tuple((kind, [[kind], 1]) for kind in ("global", "local"))

_INDEX_SCALED = Condition(
    "scale_attn_by_inverse_layer_idx",
    value=False,
    otherwise="attention is scaled by the layer's index, so layers that move up would compute something else",
)
_GPT2_SIZE = {"n_embd": 32, "n_head": 4, "n_positions": 64}

DENSE_FAMILIES = (
    Family("llama", "LlamaForCausalLM", plain=True),
    Family("mistral", "MistralForCausalLM", plain=True, tiny={"sliding_window": 5}),
    Family("qwen2", "Qwen2ForCausalLM", per_layer_lists=_TYPES, plain=True),
    Family(
        "qwen3",
        "Qwen3ForCausalLM",
        per_layer_lists=_TYPES,
        plain=True,
        tiny={"head_dim": 8, "use_sliding_window": True, "sliding_window": 5, "max_window_layers": 3},
    ),
    Family("gemma", "GemmaForCausalLM", plain=True, tiny={"head_dim": 8}),
    Family(
        "gemma2",
        "Gemma2ForCausalLM",
        per_layer_lists=_TYPES,
        tiny={"head_dim": 8, **_WINDOW},
    ),
    Family(
        "gemma3_text",
        "Gemma3ForCausalLM",
        per_layer_lists=_TYPES,
        independent_fields=("_sliding_window_pattern",),  # a period
        tiny={"head_dim": 8, **_WINDOW},
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
    Family("phi3", "Phi3ForCausalLM", plain=True, tiny={"sliding_window": 5}),
    Family("olmo", "OlmoForCausalLM"),
    Family("olmo2", "Olmo2ForCausalLM"),
    Family(
        "olmo3",
        "Olmo3ForCausalLM",
        per_layer_lists=_TYPES,
        tiny={**_WINDOW},
    ),
    Family(
        "smollm3",
        "SmolLM3ForCausalLM",
        per_layer_lists=("no_rope_layers", "layer_types"),
        tiny={"no_rope_layers": [1, 0, 1, 1, 0, 1]},
    ),
    Family("falcon", "FalconForCausalLM", "transformer.h"),
    Family("gptj", "GPTJForCausalLM", "transformer.h", tiny={**_GPT2_SIZE, "rotary_dim": 4}),
    Family("bloom", "BloomForCausalLM", "transformer.h", tiny={"n_head": 4}),
    Family("cohere", "CohereForCausalLM"),
    Family(
        "cohere2",
        "Cohere2ForCausalLM",
        per_layer_lists=_TYPES,
        tiny={**_WINDOW},
    ),
    Family("granite", "GraniteForCausalLM", tiny={"logits_scaling": 3.0, "residual_multiplier": 0.7}),
    Family("stablelm", "StableLmForCausalLM"),
    Family("starcoder2", "Starcoder2ForCausalLM", tiny={"sliding_window": 5}),
    Family("glm4", "Glm4ForCausalLM", tiny={"head_dim": 8}),
    Family("apertus", "ApertusForCausalLM"),
    Family("arcee", "ArceeForCausalLM", tiny={"head_dim": 8}),
    Family("biogpt", "BioGptForCausalLM", "biogpt.layers"),
    Family("bitnet", "BitNetForCausalLM"),
    Family(
        "codegen",
        "CodeGenForCausalLM",
        "transformer.h",
        "n_layer",
        tiny={**_GPT2_SIZE, "n_ctx": 64, "rotary_dim": 4},
    ),
    Family(
        "cohere_compass_text",
        "CohereCompassForCausalLM",
        per_layer_lists=_TYPES,
        tiny={
            "head_dim": 8,
            "rope_parameters": {
                "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
                "full_attention": None,
            },
            **_WINDOW,
        },
    ),
    Family(
        "cpmant",
        "CpmAntForCausalLM",
        "cpmant.encoder.layers",
        cache_differs="the model needs all tokens to place one, and with a cache it is given only the last",
        tiny={"dim_head": 8, "dim_ff": 48, "prompt_length": 4, "segment_types": 4},
    ),
    Family("ctrl", "CTRLLMHeadModel", "transformer.h", "n_layer", tiny={**_GPT2_SIZE, "dff": 48}),
    Family(
        "cwm", "CwmForCausalLM", per_layer_lists=_TYPES, tiny={"head_dim": 8, "bos_token_id": 1, **_WINDOW}
    ),
    Family("doge", "DogeForCausalLM", tiny={"keep_window_size": 16}),
    Family("ernie4_5", "Ernie4_5ForCausalLM", tiny={"head_dim": 8}),
    Family("exaone4", "Exaone4ForCausalLM", per_layer_lists=_TYPES, tiny=_WINDOW),
    Family("glm", "GlmForCausalLM", tiny={"head_dim": 8}),
    Family(
        "gpt-sw3",
        "GPT2LMHeadModel",
        "transformer.h",
        "n_layer",
        removal_needs=(_INDEX_SCALED,),
        tiny=_GPT2_SIZE,
    ),
    Family("gpt_bigcode", "GPTBigCodeForCausalLM", "transformer.h", "n_layer", tiny=_GPT2_SIZE),
    Family(
        "gpt_neo",
        "GPTNeoForCausalLM",
        "transformer.h",
        "num_layers",
        per_layer_lists=("attention_layers",),
        rules=(PerLayerList("attention_types", "attention_layers", _GPT_NEO_TYPES),),
        tiny={
            "num_layers": 6,
            "num_heads": 4,
            "window_size": 5,
            "attention_types": [[["global", "local"], 3]],
        },
    ),
    Family(
        "gpt_neox_japanese",
        "GPTNeoXJapaneseForCausalLM",
        "gpt_neox_japanese.layers",
        rules=(Pinned((-1,), "only the last layer has a bias in its attention's output"),),
    ),
    Family(
        "granite_swa",
        "GraniteSWAForCausalLM",
        per_layer_lists=("layer_types", "layer_rope_theta"),
        tiny={**_WINDOW, "layer_rope_theta": [100.0, 200.0, 300.0, 400.0, 500.0, 600.0]},
    ),
    Family("helium", "HeliumForCausalLM", tiny={"head_dim": 8}),
    Family("hunyuan_v1_dense", "HunYuanDenseV1ForCausalLM", tiny={"head_dim": 8}),
    Family("hyperclovax", "HyperCLOVAXForCausalLM", tiny={"head_dim": 8, "residual_multiplier": 0.7}),
    Family("internlm3", "LlamaForCausalLM"),
    Family("iquestcoder", "LlamaForCausalLM"),
    Family("jais2", "Jais2ForCausalLM", tiny={"head_dim": 8}),
    Family("ministral", "MinistralForCausalLM", per_layer_lists=_TYPES, tiny={"head_dim": 8, **_WINDOW}),
    Family("ministral3", "Ministral3ForCausalLM", tiny={"head_dim": 8, "sliding_window": 5}),
    Family(
        "mpt",
        "MptForCausalLM",
        "transformer.blocks",
        "n_layers",
        tiny={"d_model": 32, "n_heads": 4, "max_seq_len": 64},
    ),
    Family("nanochat", "NanoChatForCausalLM"),
    Family("nemotron", "NemotronForCausalLM", tiny={"head_dim": 8}),
    Family("openai-gpt", "OpenAIGPTLMHeadModel", "transformer.h", "n_layer", tiny=_GPT2_SIZE),
    Family("persimmon", "PersimmonForCausalLM"),
    Family("seed_oss", "SeedOssForCausalLM", tiny={"head_dim": 8}),
    Family(
        "vaultgemma",
        "VaultGemmaForCausalLM",
        per_layer_lists=_TYPES,
        tiny={"head_dim": 8, "query_pre_attn_scalar": 8, **_WINDOW},
    ),
    Family(
        "xglm",
        "XGLMForCausalLM",
        depth_field="num_layers",
        tiny={"d_model": 32, "ffn_dim": 48, "attention_heads": 4},
    ),
    Family("youtu", "YoutuForCausalLM", tiny=LATENT_ATTENTION),
)
