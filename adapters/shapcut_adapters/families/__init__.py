"""Decoder-only families that are claimed: where their layers are, and what follows the depth.

A family is claimed here only if its tiny example passes the whole conformance kit.
"""

from torch import nn
from transformers import PreTrainedModel

from shapcut_adapters.families.dense import DENSE_FAMILIES
from shapcut_adapters.families.family import Condition, Family
from shapcut_adapters.families.hybrid import HYBRID_FAMILIES
from shapcut_adapters.families.mixture import MIXTURE_FAMILIES
from shapcut_adapters.families.place import PLACE_FAMILIES

__all__ = ["FAMILIES", "Condition", "Family", "family_of"]

FAMILIES = (*DENSE_FAMILIES, *MIXTURE_FAMILIES, *HYBRID_FAMILIES, *PLACE_FAMILIES)

_FAMILY_OF_CLASS = {family.model_class: family for family in FAMILIES}


def family_of(model: nn.Module) -> Family | None:
    """The family of a model by its own class: wrappers, headless models and a hub's own code have none."""
    kind = type(model)
    family = _FAMILY_OF_CLASS.get(kind.__name__)
    if (
        family is None
        or not isinstance(model, PreTrainedModel)
        or kind.__module__.split(".")[0] != "transformers"
    ):
        return None
    return family if model.config.model_type == family.model_type else None
