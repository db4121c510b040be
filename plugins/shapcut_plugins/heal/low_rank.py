"""Low-rank additions to the weights of a model's blocks, with peft."""

import importlib.util
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from shapcut.contracts import Adapter, InputError


def require_peft() -> None:
    """Require peft to be installed.

    Raises:
        InputError: with the install command.
    """
    if importlib.util.find_spec("peft") is None:
        raise InputError("heal needs peft: pip install 'shapcut[heal]', or train all weights with full=true")


def add_low_rank(model: nn.Module, adapter: Adapter, rank: int, seed: int) -> Any:
    """Add trainable low-rank maps beside every linear map of the blocks, in place.

    They start at zero, so that the model's output is unchanged. Only they have gradients.

    Returns:
        peft's wrapper, for `merge_low_rank`.

    Raises:
        InputError: if peft cannot wrap the model.
    """
    import peft  # noqa: PLC0415 - optional, and seconds to import

    targets = list(_linear_maps(model, adapter))
    if not targets:
        raise InputError(f"heal: the blocks of {type(model).__name__} have no linear maps; use full=true")
    config = peft.LoraConfig(r=rank, lora_alpha=2 * rank, lora_dropout=0.0, target_modules=targets)
    try:
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.filterwarnings(
                "ignore", "`is_gradient_checkpointing`", FutureWarning
            )  # peft asks for it
            torch.manual_seed(seed)
            wrapped = peft.get_peft_model(model, config)
    except (ValueError, AttributeError) as error:
        line = " ".join(str(error).split())
        raise InputError(f"heal: peft cannot wrap {type(model).__name__} ({line}); use full=true") from error
    wrapped.eval()
    return wrapped


def merge_low_rank(wrapped: Any) -> nn.Module:
    """Merge the additions into the weights and unwrap the model."""
    return _plain(wrapped.merge_and_unload())


def without_low_rank(wrapped: Any) -> nn.Module:
    """Drop the additions and unwrap the model."""
    return _plain(wrapped.unload())


def _plain(model: nn.Module) -> nn.Module:
    vars(model).pop("peft_config", None)
    return model


def _linear_maps(model: nn.Module, adapter: Adapter) -> Iterator[str]:
    """Paths of the blocks' linear maps, except those that fused state-space kernels read directly."""
    for player in adapter.players(model):
        block = model.get_submodule(player.name)
        for path, module in block.named_modules():
            if not isinstance(module, nn.Linear | Conv1D):
                continue
            owner, _, leaf = path.rpartition(".")
            if leaf == "out_proj" and hasattr(block.get_submodule(owner), "conv1d"):
                continue
            yield f"{player.name}.{path}"
