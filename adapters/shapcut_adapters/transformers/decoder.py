"""A decoder-only model as a stack of layers."""

import re
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig

from shapcut.contracts import UnsupportedModelError
from shapcut_adapters.transformers.families import FAMILIES, Family, family_of, is_wrapper
from shapcut_adapters.transformers.families.family import Rebuild
from shapcut_adapters.transformers.offload import execution_device


@dataclass(frozen=True, slots=True)
class Decoder:
    """The parts of a model that the adapter works on.

    Attributes:
        model: the whole causal language model.
        family: its family's rules.
        owner: the module that calls the layers.
        blocks: the layers, in execution order.
        stack: the dotted path of the layers.
    """

    model: nn.Module
    family: Family
    owner: nn.Module
    blocks: nn.ModuleList
    stack: str

    @property
    def config(self) -> PretrainedConfig:
        """The config that describes the layers: that of the language model inside a multimodal model."""
        return language_config(self.model)

    @property
    def rebuild(self) -> Rebuild | None:
        """How the model is rebuilt for a removal; None if its layers can be deleted in place."""
        recipe = self.family.rebuild
        needed = recipe is not None and (
            not recipe.fields or any(getattr(self.config, field, 0) for field in recipe.fields)
        )
        return recipe if needed else None

    @property
    def entrance(self) -> nn.Module | None:
        """The part of block 0 that processes the stack's input, or None."""
        return self.blocks[0].get_submodule(self.family.entrance) if self.family.entrance else None

    def own_parameters(self) -> list[list[nn.Parameter]]:
        """For each block, the parameters that it alone uses and that its removal drops."""
        outside = set() if self.entrance is None else {id(p) for p in self.entrance.parameters()}
        for name, module in self.model.named_modules(remove_duplicate=False):
            if not name.startswith(f"{self.stack}."):
                outside |= {id(parameter) for parameter in module.parameters(recurse=False)}
        users = Counter(id(parameter) for block in self.blocks for parameter in block.parameters())
        return [
            [p for p in block.parameters() if users[id(p)] == 1 and id(p) not in outside]
            for block in self.blocks
        ]

    def block_parameters(self) -> list[int]:
        """For each block, the number of parameters that its removal drops."""
        own = self.own_parameters()
        counts = [sum(parameter.numel() for parameter in block) for block in own]
        counted = {id(parameter) for block in own for parameter in block}
        for index, parameter in self._elsewhere():
            if id(parameter) not in counted:
                counts[index] += parameter.numel()
        for part in self.rebuild.slices if self.rebuild else ():
            with suppress(AttributeError):  # a config without such a parameter
                size = self.owner.get_parameter(part.parameter).numel() // len(self.blocks)
                counts = [count + size for count in counts]
        return counts

    def _elsewhere(self) -> Iterator[tuple[int, nn.Parameter]]:
        """Parameters in shared modules that serve a single block, with that block's index."""
        for part in self.rebuild.ordinals if self.rebuild else ():
            kinds = getattr(self.config, part.field)
            counted = [index for index, kind in enumerate(kinds) if kind == part.kind]
            for name, parameter in self.model.named_parameters():
                if (found := re.search(part.pattern, name)) is not None:
                    yield counted[int(found[1])], parameter


def language_config(model: nn.Module) -> PretrainedConfig:
    """The config of a language model, or of the one inside a multimodal model."""
    whole: Any = model.config
    return whole.text_config if is_wrapper(model) else whole


def find_stack(model: nn.Module, family: Family) -> str:
    """The dotted path of the layers; in a multimodal model, wherever the module with its text config is."""
    if not is_wrapper(model):
        return family.stack
    last, config = family.stack.rpartition(".")[2], language_config(model)
    for name, module in model.named_modules():
        if getattr(module, "config", None) is config and isinstance(
            getattr(module, last, None), nn.ModuleList
        ):
            return f"{name}.{last}"
    return ""


def find_blocks(model: nn.Module, family: Family) -> nn.ModuleList | None:
    """The ModuleList of the layers if its length matches the config, else None."""
    module: object = model
    for part in find_stack(model, family).split("."):
        module = getattr(module, part, None)
    depth = getattr(language_config(model), family.depth_field, None)
    return module if isinstance(module, nn.ModuleList) and len(module) == depth else None


def find_decoder(model: nn.Module) -> Decoder:
    """Find the parts of a model of a known family.

    Raises:
        UnsupportedModelError: if the family is unknown or its layers are not in place.
    """
    family = family_of(model)
    blocks = find_blocks(model, family) if family else None
    if family is None or blocks is None:
        known = ", ".join(known_family.model_type for known_family in FAMILIES)
        raise UnsupportedModelError(f"{type(model).__name__} is not a known decoder; known: {known}")
    stack = find_stack(model, family)
    return Decoder(model, family, model.get_submodule(stack.rpartition(".")[0]), blocks, stack)


def input_device(model: nn.Module) -> torch.device:
    """The device that accelerate executes on if it manages the weights, else that of the weights."""
    return execution_device(model) or torch.device("cpu")


def forward(model: nn.Module, input_ids: Tensor) -> Tensor:
    """Logits of shape (batch, length, vocabulary), without a cache, in the caller's gradient mode."""
    return model(input_ids=input_ids, use_cache=False).logits  # type: ignore[no-any-return]
