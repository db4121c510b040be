"""Any mix of attentions and MLPs, as a checkpoint with a modelling file of its own."""

import re
import shutil
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

from torch import Tensor, nn

from shapcut.contracts import read_json, write_json_atomically
from shapcut_adapters.transformers.decoder import Decoder
from shapcut_adapters.transformers.families import OWN_CODE
from shapcut_adapters.transformers.removal import shortened
from shapcut_adapters.transformers.sublayers.kept_parts import KeptParts
from shapcut_adapters.transformers.sublayers.rewriting import rewritten

_MODULE = "modeling_shapcut"

_CLASSES = MappingProxyType({"llama": "Llama", "mistral": "Mistral", "qwen2": "Qwen2", "qwen3": "Qwen3"})
"""Families by model type, with what the names of their classes begin with."""


def remote_objection(decoder: Decoder, kept: KeptParts) -> str:
    """Why the modelling file cannot express a set; empty if it can."""
    if decoder.config is not decoder.model.config or decoder.family.model_type not in _CLASSES:
        return f"shapcut has modelling code for {', '.join(_CLASSES)}, not for {decoder.family.model_type}"
    if not kept.mixers:
        return "no attention would stay, at least 1 is needed"
    return ""


def with_own_code(decoder: Decoder, kept: KeptParts) -> nn.Module:
    """A new model of the remaining parts, which shares their weights."""
    _register()
    config_class, model_class = _classes(decoder.family.model_type)
    fields = shortened(decoder.config, decoder.family, kept.mixer_cut)
    fields["leading_mlps"] = len(kept.leading)
    fields["mlps_per_layer"] = [len(layer.mlps) for layer in kept.layers]
    return rewritten(decoder, config_class, model_class, fields, _renamed(decoder, kept))


def _renamed(decoder: Decoder, kept: KeptParts) -> dict[str, Tensor]:
    mixers = {layer.mixer: str(index) for index, layer in enumerate(kept.layers)}
    mlps = {block: f"0.leading_mlps.{place}" for place, block in enumerate(kept.leading)}
    for index, layer in enumerate(kept.layers):
        mlps |= {block: f"{index}.mlps.{place}" for place, block in enumerate(layer.mlps)}
    return dict(_new_names(decoder, mixers, mlps))


def _new_names(
    decoder: Decoder, mixers: dict[int, str], mlps: dict[int, str]
) -> Iterable[tuple[str, Tensor]]:
    layer = re.compile(rf"{re.escape(decoder.stack)}\.(\d+)\.(\w+)\.(.+)")
    parts = {"mlp": (mlps, "mlp"), "post_attention_layernorm": (mlps, "norm")}
    for name, tensor in decoder.model.state_dict().items():
        if (found := layer.fullmatch(name)) is None:
            yield name, tensor
            continue
        places, child = parts.get(found[2], (mixers, found[2]))
        if (place := places.get(int(found[1]))) is not None:
            yield f"{decoder.stack}.{place}.{child}.{found[3]}", tensor


@cache
def _register() -> None:
    """Let transformers load these checkpoints in this process, by our own code and not by a checkpoint's."""
    from transformers import AutoConfig, AutoModelForCausalLM  # noqa: PLC0415 - slow to import

    configs: Any = AutoConfig
    models: Any = AutoModelForCausalLM
    for model_type in _CLASSES:
        config_class, model_class = _classes(model_type)
        configs.register(config_class.model_type, config_class, exist_ok=True)
        models.register(config_class, model_class, exist_ok=True)


def _classes(model_type: str) -> tuple[Any, Any]:
    from shapcut_adapters.transformers.sublayers import modeling_shapcut  # noqa: PLC0415 - imports models

    name = f"Shapcut{_CLASSES[model_type]}"
    return getattr(modeling_shapcut, f"{name}Config"), getattr(modeling_shapcut, f"{name}ForCausalLM")


def save_with_code(model: Any, directory: Path) -> None:
    """Save such a model with its modelling file."""
    model.save_pretrained(directory)
    name = f"{_MODULE}.Shapcut{_CLASSES[model.config.model_type.removeprefix(OWN_CODE)]}"
    config = read_json(directory / "config.json")
    config["auto_map"] = {"AutoConfig": f"{name}Config", "AutoModelForCausalLM": f"{name}ForCausalLM"}
    write_json_atomically(directory / "config.json", config)
    shutil.copyfile(Path(__file__).with_name(f"{_MODULE}.py"), directory / f"{_MODULE}.py")
