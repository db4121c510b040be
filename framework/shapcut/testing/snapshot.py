"""Snapshots of a model's structure and weights, to verify that a context restores it."""

from typing import Any

from torch import Tensor, nn

from shapcut.models.fingerprint import config_of

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def structure(model: nn.Module) -> dict[str, Any]:
    """The replaced forward, hooks, mode and children of every module, and the config."""
    found: dict[str, Any] = {"config": config_of(model)}
    for name, module in model.named_modules(remove_duplicate=False):
        attributes = vars(module)
        hooks = [tuple(attributes[kind]) for kind in _HOOKS]
        children = [(key, id(child)) for key, child in module.named_children()]
        found[name] = (id(module), id(attributes.get("forward")), hooks, module.training, children)
    return found


def changed(before: dict[str, Any], after: dict[str, Any]) -> str:
    """The names of differing entries; empty if none differ."""
    names = [
        name or "the model itself" for name in before.keys() | after.keys() if _differs(before, after, name)
    ]
    return ", ".join(sorted(names)[:5])


def _differs(before: dict[str, Any], after: dict[str, Any], name: str) -> bool:
    return name not in before or name not in after or before[name] != after[name]


def weights(model: nn.Module) -> dict[str, Tensor]:
    """A copy of every parameter and buffer, by name."""
    named = (*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False))
    return {name: tensor.detach().clone() for name, tensor in named}


def addresses(model: nn.Module) -> dict[str, int]:
    """The data pointer of every parameter."""
    return {name: tensor.data_ptr() for name, tensor in model.named_parameters(remove_duplicate=False)}
