"""The supported decoder-only families: where their layers are, and which config fields follow the depth.

Each family's tiny example passes the whole conformance kit.
"""

from typing import Any

from torch import nn
from transformers import PreTrainedModel

from shapcut_adapters.transformers.families.dense import DENSE_FAMILIES
from shapcut_adapters.transformers.families.encoder import ENCODER_FAMILIES
from shapcut_adapters.transformers.families.family import Condition, Family
from shapcut_adapters.transformers.families.hybrid import HYBRID_FAMILIES
from shapcut_adapters.transformers.families.listed_mixture import LISTED_MIXTURE_FAMILIES
from shapcut_adapters.transformers.families.mixture import MIXTURE_FAMILIES
from shapcut_adapters.transformers.families.multimodal import (
    TEXT_FAMILIES,
    WRAPPERS,
    Wrapper,
    deepstack_layers,
    is_wrapper,
)
from shapcut_adapters.transformers.families.place import PLACE_FAMILIES

__all__ = [
    "FAMILIES",
    "OWN_CODE",
    "WRAPPERS",
    "Condition",
    "Family",
    "Wrapper",
    "deepstack_layers",
    "family_of",
    "has_own_code",
    "is_wrapper",
]

FAMILIES = (
    *DENSE_FAMILIES,
    *ENCODER_FAMILIES,
    *MIXTURE_FAMILIES,
    *LISTED_MIXTURE_FAMILIES,
    *HYBRID_FAMILIES,
    *PLACE_FAMILIES,
)

OWN_CODE = "shapcut_"
"""What the model type of a checkpoint with shapcut's modelling file begins with, before the family's."""

_FAMILY = {family.model_type: family for family in FAMILIES}
_INSIDE = {**_FAMILY, **{family.model_type: family for family in TEXT_FAMILIES}}


def family_of(model: nn.Module) -> Family | None:
    """The family of a model by its own class, or of the language model inside a multimodal one.

    Headless models and a hub's own code have none. A model in shapcut's own code has the family of the model
    that it was cut from.
    """
    if has_own_code(model):
        config: Any = model.config
        return _FAMILY.get(config.model_type.removeprefix(OWN_CODE))
    kind = type(model)
    if not isinstance(model, PreTrainedModel) or kind.__module__.split(".")[0] != "transformers":
        return None
    if is_wrapper(model):
        inside = _INSIDE.get(model.config.text_config.model_type)
        return inside if inside is not None and not inside.entrance else None
    family = _FAMILY.get(model.config.model_type)
    return family if family is not None and kind.__name__ == family.model_class else None


def has_own_code(model: nn.Module) -> bool:
    """Whether a model has shapcut's modelling file, made here or in a checkpoint."""
    config: Any = getattr(model, "config", None)
    return getattr(config, "model_type", "").startswith(OWN_CODE) and hasattr(config, "mlps_per_layer")
