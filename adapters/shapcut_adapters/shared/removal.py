"""Refusal of impossible removals, before a model is touched."""

from collections.abc import Collection

from torch import nn

from shapcut.contracts import Adapter, Granularity, UnsupportedModelError


def require_removable(
    adapter: Adapter, model: nn.Module, absent: Collection[int], granularity: Granularity
) -> None:
    """Refuse a removal that `Adapter.can_remove` objects to.

    Raises:
        UnsupportedModelError: with the objection.
    """
    if objection := adapter.can_remove(model, absent, granularity):
        raise UnsupportedModelError(objection)
