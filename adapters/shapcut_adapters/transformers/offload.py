"""Blocks whose weights accelerate offloads (to main memory or disk) and loads for each call."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn


def is_managed(module: nn.Module) -> bool:
    """Whether accelerate hooks this module or one inside it."""
    return any(hasattr(inner, "_hf_hook") for inner in module.modules())


def execution_device(module: nn.Module) -> torch.device | None:
    """The device that accelerate executes on if it manages the weights, else that of the weights, if any."""
    for inner in module.modules():
        hook = getattr(inner, "_hf_hook", None)
        for part in getattr(hook, "hooks", (hook,)):
            device = getattr(part, "execution_device", None)
            if device is not None:
                return torch.device(device)
    return next((parameter.device for parameter in module.parameters()), None)


@contextmanager
def resident(block: nn.Module) -> Iterator[None]:
    """Load a block's weights once and keep them while the context is open."""
    with ExitStack() as stack:
        for module in block.modules():
            if hasattr(module, "_hf_hook") and _is_elsewhere(module):
                stack.enter_context(_resident_module(module))
        yield


def _is_elsewhere(module: nn.Module) -> bool:
    return any(parameter.is_meta for parameter in module.parameters(recurse=False))


@contextmanager
def _resident_module(module: nn.Module) -> Iterator[None]:
    """Run accelerate's hook once around the context, and disable it for calls inside."""
    from accelerate.hooks import ModelHook  # noqa: PLC0415 - needed only for models that accelerate manages

    managed: Any = module
    hook = managed._hf_hook  # noqa: SLF001 - the attribute is accelerate's documented place
    hook.pre_forward(module)
    managed._hf_hook = ModelHook()  # noqa: SLF001
    try:
        yield
    finally:
        managed._hf_hook = hook  # noqa: SLF001
        hook.post_forward(module, None)
