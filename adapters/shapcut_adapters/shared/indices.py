"""Checks of player indices, before a model is touched."""

from collections.abc import Collection

from torch import nn

from shapcut.contracts import Adapter, Granularity, UnsupportedModelError


def checked_indices(indices: Collection[int], n_players: int) -> frozenset[int]:
    """The indices as a set.

    Raises:
        IndexError: if an index names no player.
    """
    wrong = sorted(index for index in set(indices) if not 0 <= index < n_players)
    if wrong:
        raise IndexError(f"no players {wrong}: the model has players 0..{n_players - 1}")
    return frozenset(indices)


def require_removable(
    adapter: Adapter, model: nn.Module, absent: Collection[int], granularity: Granularity
) -> None:
    """Refuse a removal that `Adapter.can_remove` objects to.

    Raises:
        UnsupportedModelError: with the objection.
    """
    if objection := adapter.can_remove(model, absent, granularity):
        raise UnsupportedModelError(objection)
