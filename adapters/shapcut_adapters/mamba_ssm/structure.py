"""The parts of the package's language model, and removal of blocks."""

from collections.abc import Collection
from typing import Any

from torch import nn

from shapcut.contracts import UnsupportedModelError
from shapcut_adapters.mamba_ssm.package import is_language_model

STACK = "backbone.layers"
"""Dotted path of the blocks."""

_CAPTURED_GRAPHS = "_decoding_cache"
"""Attribute of the package's CUDA graphs, which are stale after a removal."""


def has_known_structure(model: nn.Module) -> bool:
    """Whether a model is the package's language model and its depth matches its config."""
    language_model: Any = model
    return is_language_model(model) and len(language_model.backbone.layers) == language_model.config.n_layer


def blocks_of(model: nn.Module) -> nn.ModuleList:
    """The blocks in execution order.

    Raises:
        UnsupportedModelError: if the model is not the package's own, or has more or fewer blocks than its
            config says.
    """
    if not has_known_structure(model):
        raise UnsupportedModelError(
            f"{type(model).__name__} is not a mamba_ssm.MambaLMHeadModel with config.n_layer blocks"
        )
    return model.get_submodule(STACK)  # type: ignore[return-value]


def remove_blocks(model: nn.Module, absent: Collection[int]) -> None:
    """Delete blocks in place, move later ones up, update the config."""
    blocks = blocks_of(model)
    config: Any = model.config
    kept = [index for index in range(len(blocks)) if index not in absent]
    attention = set(config.attn_layer_idx or ())
    for index in sorted(absent, reverse=True):
        del blocks[index]
    config.n_layer = len(kept)
    config.attn_layer_idx = [new for new, old in enumerate(kept) if old in attention]
    for index, block in enumerate(blocks):
        _renumber(block, index)
    vars(model).pop(_CAPTURED_GRAPHS, None)


def _renumber(block: Any, index: int) -> None:
    """Renumber a block; both numbers are keys of the inference cache."""
    block.layer_idx = index
    block.mixer.layer_idx = index
