"""Remove blocks from a decoder, keeping modules, indices and config consistent."""

from collections.abc import Callable
from typing import Any

from torch import nn
from transformers import PretrainedConfig

from shapcut.contracts import quantization_method
from shapcut_adapters.transformers.decoder import Decoder
from shapcut_adapters.transformers.families import Family, deepstack_layers, has_own_code, is_wrapper
from shapcut_adapters.transformers.families.conventions import conventional_fields
from shapcut_adapters.transformers.families.rules import Cut
from shapcut_adapters.transformers.file_cut import note_stored_numbers
from shapcut_adapters.transformers.quantization import quantization_objection, renumber_quantization
from shapcut_adapters.transformers.rebuild import rebuilt

_DEEPSTACK = "features of the image are added behind it, by its number"
_INDEX_ATTRIBUTES = ("layer_idx", "layer_id", "layer_number")

_UNEQUAL = "the layers have no longer one MLP each; cut the original model instead"


def pinned_blocks(decoder: Decoder) -> dict[int, str]:
    """Blocks that can never be removed exactly, with the reason."""
    if has_own_code(decoder.model):
        return dict.fromkeys(range(len(decoder.blocks)), _UNEQUAL)
    pinned = dict.fromkeys(range(deepstack_layers(decoder.model)), _DEEPSTACK)
    for rule in decoder.family.all_rules:
        pinned |= rule.pinned(decoder.config, len(decoder.blocks))
    return pinned


def needed_blocks(decoder: Decoder) -> dict[int, str]:
    """Blocks without which others cannot run, with the reason."""
    needed: dict[int, str] = {}
    for rule in decoder.family.all_rules:
        needed |= rule.needed(decoder.config, len(decoder.blocks))
    return needed


def removal_objection(decoder: Decoder, cut: Cut) -> str:
    """Why this set cannot be removed exactly; empty if it can."""
    objections = (rule.objection(decoder.config, cut) for rule in decoder.family.all_rules)
    objection = next((objection for objection in objections if objection), "")
    return objection or quantization_objection(decoder, cut)


def blocks_objection(decoder: Decoder, cut: Cut) -> str:
    """As `removal_objection`, also for blocks that can never be removed, and for all of them."""
    pinned = pinned_blocks(decoder)
    for index in cut.absent:
        if index in pinned:
            return f"player {index} ({decoder.stack}.{index}) cannot be removed: {pinned[index]}"
    if not cut.kept:
        return "no player would stay, at least 1 is needed"
    return removal_objection(decoder, cut)


def remove_blocks(
    decoder: Decoder, cut: Cut, fields_of: Callable[[PretrainedConfig], dict[str, Any]] | None = None
) -> nn.Module:
    """Remove blocks in place, or rebuild the model if its family requires that.

    Args:
        decoder: the model.
        cut: the blocks that stay.
        fields_of: new fields of a config; by default `shortened`.
    """
    if decoder.rebuild is not None:
        return rebuilt(decoder, decoder.rebuild, cut, shortened(decoder.config, decoder.family, cut))
    changes = [
        (config, fields_of(config) if fields_of else shortened(config, decoder.family, cut))
        for config in _configs(decoder)
    ]
    note_stored_numbers(decoder)
    if quantization_method(decoder.model.config):
        renumber_quantization(decoder, cut)
    entrance = decoder.entrance
    for new, old in enumerate(cut.kept):
        renumber(decoder.blocks[old], old, new)
    for index in reversed(cut.absent):
        del decoder.blocks[index]
    if entrance is not None:
        setattr(decoder.blocks[0], decoder.family.entrance, entrance)
    for config, fields in changes:
        for name, value in fields.items():
            setattr(config, name, value)
    return decoder.model


def shortened(config: PretrainedConfig, family: Family, cut: Cut) -> dict[str, Any]:
    """The config fields that depend on the layers, for the kept ones only."""
    fields = conventional_fields(config, cut)
    for rule in family.all_rules:
        fields |= rule.edited(config, cut)
    return fields


def _configs(decoder: Decoder) -> list[PretrainedConfig]:
    """The distinct config objects of the modules that count these layers (usually one, shared by all)."""
    modules = decoder.model.modules()
    found = {id(config): config for module in modules if (config := getattr(module, "config", None))}
    found.setdefault(id(decoder.config), decoder.config)
    counting = [config for config in found.values() if hasattr(config, decoder.family.depth_field)]
    if not is_wrapper(decoder.model):
        return counting
    return [config for config in counting if config.model_type == decoder.config.model_type]


def renumber(block: nn.Module, old: int, new: int) -> None:
    """Replace the index that modules of a block have stored."""
    for module in block.modules():
        for name in _INDEX_ATTRIBUTES:
            if vars(module).get(name) == old:
                setattr(module, name, new)
