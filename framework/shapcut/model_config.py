"""A model's config as plain data, whatever library it is of."""

import dataclasses
from typing import Any

from torch import nn


def config_of(model: nn.Module) -> dict[str, Any] | None:
    """The content of a transformers config or of a dataclass, or None if the model has neither."""
    config = getattr(model, "config", None)
    to_dict = getattr(config, "to_dict", None)
    if to_dict is not None:
        return dict(to_dict())
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        return dataclasses.asdict(config)
    return None
