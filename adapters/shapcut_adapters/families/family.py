"""What is known about one family of causal language models: where its layers are, what follows the depth."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Condition:
    """A setting without which a removal would not be exact."""

    field: str
    value: object
    otherwise: str


@dataclass(frozen=True, slots=True)
class Family:
    """One family of causal language models.

    Attributes:
        model_type: the config's ``model_type``.
        model_class: name of the transformers class with the language-model head.
        stack: dotted path of the ModuleList of layers.
        depth_field: config field that counts the layers.
        per_layer_lists: config fields with one entry a layer.
        index_lists: config fields that list layer indices.
        removal_needs: settings that a removal needs to be exact.
        tiny: config of the example, beside what all examples share.
    """

    model_type: str
    model_class: str
    stack: str = "model.layers"
    depth_field: str = "num_hidden_layers"
    per_layer_lists: tuple[str, ...] = ()
    index_lists: tuple[str, ...] = ()
    removal_needs: tuple[Condition, ...] = ()
    tiny: Mapping[str, Any] = field(default_factory=dict)
