"""Language models inside multimodal models: nested configs, and the class that loads the whole."""

from typing import Any


def is_multimodal(config: Any) -> bool:
    """Whether a config describes a language model together with what reads images or sound."""
    from transformers import (  # noqa: PLC0415 - slow to import
        MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
        PreTrainedConfig,
    )

    text = getattr(config, "text_config", None)
    return type(config) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING and isinstance(text, PreTrainedConfig)


def auto_class(config: Any) -> Any:
    """The auto class of transformers that loads the whole model of a config."""
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText  # noqa: PLC0415

    return AutoModelForImageTextToText if is_multimodal(config) else AutoModelForCausalLM


TEXT_KEYS = {
    r"^language_model\.lm_head\.": "lm_head.",
    r"^(model\.)?language_model\.(model\.)?": "model.",
    r"^model\.text_model\.": "model.",
}
"""Names of a multimodal checkpoint's language model, and what they are in the language model alone."""
