"""Removal by rebuilding: a new model from the shorter config, filled with the remaining weights."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig

from shapcut.contracts import UnsupportedModelError
from shapcut_adapters.transformers.decoder import Decoder
from shapcut_adapters.transformers.families import is_wrapper
from shapcut_adapters.transformers.families.family import Rebuild
from shapcut_adapters.transformers.families.rules import Cut

IMPLEMENTATIONS = ("_attn_implementation", "_experts_implementation")


def rebuilt(decoder: Decoder, recipe: Rebuild, cut: Cut, fields: Mapping[str, Any]) -> nn.Module:
    """A new model without some blocks; shares weights with the old one, which is unchanged.

    Raises:
        UnsupportedModelError: if weights are not in memory or do not fit the shorter config.
    """
    model = decoder.model
    if any(parameter.is_meta for parameter in model.parameters()):
        raise UnsupportedModelError(
            f"{type(model).__name__} must be rebuilt, which needs its weights in memory"
        )
    names = _Names(decoder, recipe, cut)
    with torch.device("meta"):
        new = type(model)(_edited(model.config, fields, inside=is_wrapper(model)))
    weights = names.renamed(model.state_dict().items())
    owner = decoder.stack.rpartition(".")[0]
    for part in recipe.slices:
        if (name := f"{owner}.{part.parameter}") in weights:
            weights[name] = _kept_slices(weights[name], part.dim, cut)
    try:
        new.load_state_dict(weights, strict=True, assign=True)
    except RuntimeError as error:
        raise UnsupportedModelError(
            f"the remaining weights do not fit the shorter config: {error}"
        ) from error
    fill_buffers(new, names.renamed(model.named_buffers(remove_duplicate=False)))
    return as_before(new, model)


class _Names:
    """New names of parameters and buffers."""

    def __init__(self, decoder: Decoder, recipe: Rebuild, cut: Cut) -> None:
        self._layer = re.compile(rf"({re.escape(decoder.stack)}\.)(\d+)(\..*)")
        self._new = {old: new for new, old in enumerate(cut.kept)}
        self._ordinals = [
            (
                re.compile(part.pattern),
                _new_ordinals(getattr(decoder.config, part.field), part.kind, cut),
            )
            for part in recipe.ordinals
        ]

    def renamed(self, named: Iterable[tuple[str, Tensor]]) -> dict[str, Tensor]:
        """The remaining tensors under their new names."""
        pairs = ((self._new_name(name), tensor) for name, tensor in named)
        return {name: tensor for name, tensor in pairs if name is not None}

    def _new_name(self, name: str) -> str | None:
        if (layer := self._layer.fullmatch(name)) is not None:
            index = self._new.get(int(layer[2]))
            if index is None:
                return None
            name = f"{layer[1]}{index}{layer[3]}"
        for pattern, new_ordinal in self._ordinals:
            if (found := pattern.search(name)) is not None:
                ordinal = new_ordinal.get(int(found[1]))
                if ordinal is None:
                    return None
                name = f"{name[: found.start(1)]}{ordinal}{name[found.end(1) :]}"
        return name


def _new_ordinals(kinds: list[str], kind: str, cut: Cut) -> dict[int, int]:
    counted = [index for index, each in enumerate(kinds) if each == kind]
    staying = [ordinal for ordinal, index in enumerate(counted) if index in cut.kept]
    return {old: new for new, old in enumerate(staying)}


def _kept_slices(tensor: Tensor, dim: int, cut: Cut) -> Tensor:
    slices = tensor.chunk(cut.depth, dim)
    return torch.cat([slices[index] for index in cut.kept], dim)


def _edited(config: Any, fields: Mapping[str, Any], *, inside: bool) -> PretrainedConfig:
    """A config as read from disk, so that derived fields follow; ``inside``: the language model's in it."""
    content = config.to_dict()
    (content["text_config"] if inside else content).update(fields)
    new: PretrainedConfig = type(config).from_dict(content)
    for part in ("", *config.sub_configs):
        old, edited = (getattr(each, part, None) if part else each for each in (config, new))
        for name in IMPLEMENTATIONS if old is not None else ():
            setattr(edited, name, getattr(old, name))
    return new


def fill_buffers(model: nn.Module, buffers: Mapping[str, Tensor]) -> None:
    """Copy buffers that no checkpoint holds.

    Raises:
        UnsupportedModelError: if the old model has no buffer of that name and shape.
    """
    for name, buffer in list(model.named_buffers(remove_duplicate=False)):
        if buffer.is_meta:
            value = buffers.get(name)
            if value is None or value.shape != buffer.shape:
                raise UnsupportedModelError(f"the shorter model has a buffer {name} that the model lacks")
            owner, _, attribute = name.rpartition(".")
            setattr(model.get_submodule(owner), attribute, value)


def as_before(new: nn.Module, old: Any) -> nn.Module:
    """Restore the old model's ties, mode and generation settings."""
    tied: Any = new
    tied.tie_weights()
    for name, parameter in new.named_parameters():
        if parameter.is_meta:
            raise UnsupportedModelError(f"the shorter model's {name} has no weights")
    tied.generation_config = old.generation_config
    tied.name_or_path = old.name_or_path
    return new.train(old.training)
