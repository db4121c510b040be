"""The description of one family of causal language models."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from shapcut_adapters.transformers.families.rules import Condition, Count, IndexList, PerLayerList, Rule

__all__ = ["Condition", "Family", "Ordinals", "Rebuild", "Slices"]


@dataclass(frozen=True, slots=True)
class Ordinals:
    """Parameters outside their layer that are numbered by counting the layers of one kind.

    Attributes:
        pattern: regular expression; its only group is the number in a parameter's name.
        field: config list with each layer's kind.
        kind: the kind that is counted.
    """

    pattern: str
    field: str
    kind: str


@dataclass(frozen=True, slots=True)
class Slices:
    """A parameter outside the layers that holds an equal slice for each layer, in order.

    Attributes:
        parameter: its dotted name in the module that calls the layers.
        dim: the dimension that the slices divide.
    """

    parameter: str
    dim: int


@dataclass(frozen=True, slots=True)
class Rebuild:
    """How weights move into a new model, for families whose layers cannot be deleted in place.

    Attributes:
        ordinals: of modules outside the layers that serve one kind of layer.
        slices: of parameters outside the layers.
        fields: of the config, which make it necessary if one is not zero; empty: it always is.
    """

    ordinals: tuple[Ordinals, ...] = ()
    slices: tuple[Slices, ...] = ()
    fields: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Family:
    """One family of causal language models.

    Attributes:
        model_type: the config's ``model_type``.
        model_class: name of the transformers class with the language-model head.
        stack: dotted path of the ModuleList of layers.
        depth_field: config field that counts the layers.
        cache_differs: why cached and uncached decoding differ; empty if they agree.
        per_layer_lists: config fields with one entry per layer.
        index_lists: config fields that list layer indices.
        independent_fields: config fields that do not follow the layers although their name suggests it.
        removal_needs: settings without which no removal is exact.
        rules: further config fields that depend on the layers, and layers that must stay.
        rebuild: how to rebuild the model; None if layers can be deleted in place.
        entrance: child of block 0 that processes the stack's input, whichever block is first.
        passed_on: names of the arguments that a block returns after its hidden state; an absent block
            returns them unchanged.
        decodes_singly: cached decoding in transformers is correct for single sequences only.
        canonicalise: prepares a freshly loaded model for measuring and saving.
        plain: whether blocks are alike and both llama.cpp and mergekit support the family.
        tiny: config of the example, in addition to the shared fields.
    """

    model_type: str
    model_class: str
    stack: str = "model.layers"
    depth_field: str = "num_hidden_layers"
    cache_differs: str = ""
    per_layer_lists: tuple[str, ...] = ()
    index_lists: tuple[str, ...] = ()
    independent_fields: tuple[str, ...] = ()
    removal_needs: tuple[Condition, ...] = ()
    rules: tuple[Rule, ...] = ()
    rebuild: Rebuild | None = None
    entrance: str = ""
    passed_on: tuple[str, ...] = ()
    decodes_singly: bool = False
    canonicalise: Callable[[nn.Module], None] | None = None
    plain: bool = False
    tiny: Mapping[str, Any] = field(default_factory=dict)

    @property
    def all_rules(self) -> tuple[Rule, ...]:
        """Every rule, including those with a field of their own."""
        return (
            Count(self.depth_field),
            *(PerLayerList(name) for name in self.per_layer_lists),
            *(IndexList(name) for name in self.index_lists),
            *self.removal_needs,
            *self.rules,
        )
