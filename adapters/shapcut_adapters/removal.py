"""Taking blocks out of a decoder so that its modules, their indices and the config agree."""

from collections.abc import Collection
from typing import Any

from torch import nn
from transformers import PretrainedConfig

from shapcut_adapters.decoder import Decoder
from shapcut_adapters.families import Family

_INDEX_ATTRIBUTES = ("layer_idx", "layer_id", "layer_number", "conv_idx")


def removal_objection(decoder: Decoder) -> str:
    """Why no layer of this model can be removed exactly, empty if they can."""
    config = decoder.model.config
    for condition in decoder.family.removal_needs:
        value = getattr(config, condition.field)
        if value != condition.value:
            return f"{condition.otherwise} ({condition.field}={value})"
    return ""


def remove_blocks(decoder: Decoder, absent: Collection[int]) -> None:
    """Delete blocks in place; later blocks move up."""
    depth = len(decoder.blocks)
    kept = [index for index in range(depth) if index not in absent]
    changes = [
        (config, shortened(config, decoder.family, kept))
        for config in _configs(decoder.model, decoder.family)
    ]
    for new, old in enumerate(kept):
        _renumber(decoder.blocks[old], old, new)
    for index in sorted(absent, reverse=True):
        del decoder.blocks[index]
    for config, fields in changes:
        for name, value in fields.items():
            setattr(config, name, value)


def shortened(config: PretrainedConfig, family: Family, kept: Collection[int]) -> dict[str, Any]:
    """The config fields that follow the depth, for the kept layers only."""
    fields: dict[str, Any] = {family.depth_field: len(kept)}
    for name in family.per_layer_lists:
        values = getattr(config, name)
        if values is not None:
            fields[name] = [values[index] for index in kept]
    for name in family.index_lists:
        listed = getattr(config, name)
        if listed is not None:
            fields[name] = [new for new, old in enumerate(kept) if old in listed]
    return fields


def _configs(model: nn.Module, family: Family) -> list[PretrainedConfig]:
    """The distinct config objects of the modules that count these layers (usually one, shared by all)."""
    found = {id(config): config for module in model.modules() if (config := getattr(module, "config", None))}
    return [config for config in found.values() if hasattr(config, family.depth_field)]


def _renumber(block: nn.Module, old: int, new: int) -> None:
    for module in block.modules():
        for name in _INDEX_ATTRIBUTES:
            if vars(module).get(name) == old:
                setattr(module, name, new)
