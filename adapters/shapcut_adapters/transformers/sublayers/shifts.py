"""Half-block shifts: a block gets the MLP of a later one, so that what stays is an ordinary model."""

import re
from collections.abc import Sequence
from typing import Any

from torch import nn
from transformers import PretrainedConfig

from shapcut.contracts import UnsupportedModelError
from shapcut_adapters.transformers.decoder import Decoder
from shapcut_adapters.transformers.families import Family
from shapcut_adapters.transformers.file_cut import forbid_file_cut
from shapcut_adapters.transformers.removal import (
    pinned_blocks,
    removal_objection,
    remove_blocks,
    renumber,
    shortened,
)
from shapcut_adapters.transformers.sublayers.kept_parts import KeptParts

_OF_MLPS = re.compile(r"mlp|moe|sparse|dense|expert|ffn|feed_forward|intermediate|router")
_OF_MIXERS = re.compile(r"attn|attention|layer_types|layers_block_type|rope|window|head|mamba|indexer|hybrid")
"""Names of config fields that follow the MLPs, and of others that follow the mixers."""


def shift_objection(decoder: Decoder, kept: KeptParts) -> str:
    """Why a shifted model cannot be an ordinary one of its family; empty if it can.

    Args:
        decoder: the model.
        kept: parts that alternate.
    """
    if decoder.rebuild is not None or decoder.family.entrance:
        return f"the layers of a {type(decoder.model).__name__} are not alike enough to exchange MLPs"
    gone = set(range(kept.depth)) - set(kept.mixers).intersection(kept.mlps)
    pinned = pinned_blocks(decoder)
    for block in sorted(gone.intersection(pinned)):
        return f"block {block} must stay whole: {pinned[block]}"
    objections = (removal_objection(decoder, cut) for cut in (kept.mixer_cut, kept.mlp_cut))
    if objection := next((each for each in objections if each), ""):
        return objection
    try:
        shifted_fields(decoder.config, decoder.family, kept)
    except UnsupportedModelError as error:
        return str(error)
    return ""


def shifted_fields(config: PretrainedConfig, family: Family, kept: KeptParts) -> dict[str, Any]:
    """The config fields that depend on the layers; each follows the part that it describes.

    Raises:
        UnsupportedModelError: if a field would differ between the two, and its name does not say which it is.
    """
    of_mixers = shortened(config, family, kept.mixer_cut)
    of_mlps = shortened(config, family, kept.mlp_cut)
    fields = {}
    for name in {**of_mixers, **of_mlps}:
        by_mixers, by_mlps = (each.get(name, getattr(config, name, None)) for each in (of_mixers, of_mlps))
        if by_mixers != by_mlps and not (_OF_MLPS.search(name) or _OF_MIXERS.search(name)):
            raise UnsupportedModelError(
                f"the config's {name} describes layers, and does not say whether it means attention or MLP"
            )
        fields[name] = by_mlps if _OF_MLPS.search(name) else by_mixers
    return fields


def shift(decoder: Decoder, kept: KeptParts, children: Sequence[Sequence[str]]) -> nn.Module:
    """Give each block that stays the MLP that now follows its mixer, and remove the others, in place.

    Args:
        decoder: the model, its weights in memory.
        kept: parts that alternate.
        children: the names of the children of each block that serve its MLP.
    """
    moved = [(mixer, mlp) for mixer, mlp in kept.pairs or () if mixer != mlp]
    for mixer, mlp in moved:
        move_mlp(decoder, children, mlp, mixer)
    if moved:
        forbid_file_cut(decoder, "have the MLPs of others")

    def fields(config: PretrainedConfig) -> dict[str, Any]:
        return shifted_fields(config, decoder.family, kept)

    return remove_blocks(decoder, kept.mixer_cut, fields)


def move_mlp(decoder: Decoder, children: Sequence[Sequence[str]], source: int, target: int) -> None:
    """Give block ``target`` the MLP of block ``source``, which keeps it too."""
    parts = {name: getattr(decoder.blocks[source], name) for name in children[source]}
    for name in set(children[target]).difference(parts):
        delattr(decoder.blocks[target], name)
    for name, part in parts.items():
        renumber(part, source, target)
        setattr(decoder.blocks[target], name, part)
