"""A model of another class, filled with the weights of a decoder."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from shapcut.contracts import UnsupportedModelError
from shapcut_adapters.transformers.decoder import Decoder
from shapcut_adapters.transformers.rebuild import IMPLEMENTATIONS, as_before, fill_buffers

_OF_THE_CLASS = ("model_type", "architectures", "auto_map", "transformers_version")


def rewritten(
    decoder: Decoder,
    config_class: Any,
    model_class: Any,
    fields: Mapping[str, Any],
    weights: Mapping[str, Tensor],
) -> nn.Module:
    """A new model that shares a decoder's weights, in the decoder's mode; parameters without weights are 0.

    Args:
        decoder: the old model, which is unchanged.
        config_class: the new config's class.
        model_class: the new model's class.
        fields: of the new config, beside the old one's.
        weights: by their new names.

    Raises:
        UnsupportedModelError: if the weights do not fit.
    """
    content = {name: value for name, value in decoder.config.to_dict().items() if name not in _OF_THE_CLASS}
    config = config_class.from_dict({**content, **fields})
    for name in IMPLEMENTATIONS:
        setattr(config, name, getattr(decoder.config, name))
    with torch.device("meta"):
        new = model_class(config)
    first = next(iter(weights.values()))
    missing = {
        name: torch.zeros(tensor.shape, dtype=first.dtype, device=first.device)
        for name, tensor in new.state_dict().items()
        if name not in weights
    }
    try:
        new.load_state_dict({**weights, **missing}, strict=True, assign=True)
    except RuntimeError as error:
        raise UnsupportedModelError(f"the weights do not fit a {model_class.__name__}: {error}") from error
    fill_buffers(new, dict(decoder.model.named_buffers(remove_duplicate=False)))
    made: nn.Module = as_before(new, decoder.model)
    return made.requires_grad_(next(decoder.model.parameters()).requires_grad)
