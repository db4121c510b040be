"""The supported decoder-only families: where their layers are, and which config fields follow the depth.

Each family's tiny example passes the whole conformance kit.
"""

from torch import nn
from transformers import PreTrainedModel

from shapcut_adapters.transformers.families.dense import DENSE_FAMILIES
from shapcut_adapters.transformers.families.encoder import ENCODER_FAMILIES
from shapcut_adapters.transformers.families.family import Condition, Family
from shapcut_adapters.transformers.families.hybrid import HYBRID_FAMILIES
from shapcut_adapters.transformers.families.listed_mixture import LISTED_MIXTURE_FAMILIES
from shapcut_adapters.transformers.families.mixture import MIXTURE_FAMILIES
from shapcut_adapters.transformers.families.place import PLACE_FAMILIES

__all__ = ["FAMILIES", "Condition", "Family", "family_of"]

FAMILIES = (
    *DENSE_FAMILIES,
    *ENCODER_FAMILIES,
    *MIXTURE_FAMILIES,
    *LISTED_MIXTURE_FAMILIES,
    *HYBRID_FAMILIES,
    *PLACE_FAMILIES,
)

_FAMILY = {family.model_type: family for family in FAMILIES}


def family_of(model: nn.Module) -> Family | None:
    """The family of a model by its own class: wrappers, headless models and a hub's own code have none."""
    kind = type(model)
    if not isinstance(model, PreTrainedModel) or kind.__module__.split(".")[0] != "transformers":
        return None
    family = _FAMILY.get(model.config.model_type)
    return family if family is not None and kind.__name__ == family.model_class else None
