"""Fingerprints of models in memory."""

import dataclasses
import hashlib
import json
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

_INCIDENTAL = ("dtype", "transformers_version")


def model_fingerprint(model: nn.Module) -> str:
    """SHA-256 of the config and of every byte of every weight, stored buffers included.

    Weights that accelerate keeps on disk are read from there, each tensor by itself.
    """
    digest = hashlib.sha256()
    config = config_of(model)
    if config is not None:
        content = {k: v for k, v in config.items() if not k.startswith("_") and k not in _INCIDENTAL}
        digest.update(json.dumps(content, sort_keys=True, default=str).encode())
    for name, weight in _weights(model):
        for part in _plain_tensors(weight):
            digest.update(f"{name} {tuple(part.shape)} {part.dtype}".encode())
            flat = part.detach().cpu().contiguous().flatten()
            digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _weights(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """The parameters and the persistent buffers, which hold packed weights and scales."""
    parameters = dict(model.named_parameters())
    for name, parameter in parameters.items():
        yield name, _weight(model, name, parameter)
    for name, module in model.named_modules():
        # Not state_dict(), for which some libraries convert the weights.
        for leaf, buffer in module._buffers.items():  # noqa: SLF001 - no public way to tell persistent ones
            if buffer is not None and leaf not in module._non_persistent_buffers_set:  # noqa: SLF001
                yield f"{name}.{leaf}", buffer


def _plain_tensors(tensor: Tensor) -> Iterator[Tensor]:
    """The tensor itself, or the parts of a tensor subclass."""
    if not hasattr(tensor, "__tensor_flatten__"):
        yield tensor
        return
    names, _ = tensor.__tensor_flatten__()
    for name in names:
        yield from _plain_tensors(getattr(tensor, name))


def _weight(model: nn.Module, name: str, parameter: Tensor) -> Tensor:
    """A parameter's value, read from accelerate's store if it is offloaded."""
    if not parameter.is_meta:
        return parameter
    owner, _, leaf = name.rpartition(".")
    kept: Any = model.get_submodule(owner)
    return kept._hf_hook.weights_map[leaf]  # type: ignore[no-any-return]  # noqa: SLF001 - accelerate's place


def config_of(model: nn.Module) -> dict[str, Any] | None:
    """The content of a transformers config or of a dataclass, or None if the model has neither."""
    config = getattr(model, "config", None)
    to_dict = getattr(config, "to_dict", None)
    if to_dict is not None:
        return dict(to_dict())
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        return dataclasses.asdict(config)
    return None
