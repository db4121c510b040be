"""The form in which a model without some players is written."""

from collections.abc import Collection

from torch import nn

from shapcut.game.checkpoint_form import AllowedForm, CheckpointForm
from shapcut.game.granularity import Granularity
from shapcut.models.adapter import Adapter


def chosen_form(
    adapter: Adapter,
    model: nn.Module,
    absent: Collection[int],
    granularity: Granularity,
    allowed: AllowedForm = "plain",
) -> CheckpointForm | None:
    """The best allowed form, or None if the set cannot be removed so."""
    forms = adapter.checkpoint_forms(model, absent, granularity)
    return next((form for form in forms if form != "remote-code" or allowed == "remote-code"), None)


def form_objection(
    adapter: Adapter,
    model: nn.Module,
    absent: Collection[int],
    granularity: Granularity,
    allowed: AllowedForm = "plain",
) -> str | None:
    """Why a set cannot be removed in an allowed form, as one sentence, or None if it can."""
    if chosen_form(adapter, model, absent, granularity, allowed) is not None:
        return None
    objection = adapter.can_remove(model, absent, granularity)
    return objection or "the adapter names no form in which a checkpoint can lack these players"
