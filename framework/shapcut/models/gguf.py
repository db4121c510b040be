"""GGUF files loaded with dense weights."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from shapcut.models.gguf_reader import parsed_once
from shapcut.models.multimodal import auto_class
from shapcut.support.errors import InputError
from shapcut.support.quiet import quiet_libraries, without_stderr


def dense_weights(dtype: torch.dtype | None) -> dict[str, Any]:
    """Keyword arguments that make transformers load a GGUF file's weights dense; None is float32.

    Dense weights also make transformers drop the quantization, which it could not save.
    """
    from transformers import GgufConfig  # noqa: PLC0415 - seconds to import

    return {"quantization_config": GgufConfig(dequantize=True), "dtype": dtype or torch.float32}


def load_as(file: Path, config: Any) -> nn.Module:
    """The weights of a sound GGUF file in float32, in a model of the given config, in evaluation mode.

    Raises:
        InputError: if a weight of the model is missing.
    """
    with quiet_libraries(), without_stderr(), parsed_once():
        loaded, info = auto_class(config).from_pretrained(
            file.parent,
            gguf_file=file.name,
            config=config,
            local_files_only=True,
            output_loading_info=True,
            **dense_weights(None),
        )
    if info["missing_keys"]:
        raise InputError(f"{file} lacks weights of its model, {min(info['missing_keys'])} among them")
    model: nn.Module = loaded.eval()
    return model


def load_dequantized(file: Path) -> tuple[Any, Any]:
    """The model of a sound GGUF file in float32, in evaluation mode, and its tokenizer."""
    from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: PLC0415 - as above

    models: Any = AutoModelForCausalLM
    tokenizers: Any = AutoTokenizer
    place = {"gguf_file": str(file), "local_files_only": True}
    with quiet_libraries(), without_stderr(), parsed_once():
        model = models.from_pretrained(file.parent, **place, **dense_weights(None))
        tokenizer = tokenizers.from_pretrained(file.parent, **place)
    return model.eval(), tokenizer
