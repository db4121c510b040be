"""Checks of player indices, before a model is touched."""

from collections.abc import Collection


def checked_indices(indices: Collection[int], n_players: int) -> frozenset[int]:
    """The indices as a set.

    Raises:
        IndexError: if an index names no player.
    """
    wrong = sorted(index for index in set(indices) if not 0 <= index < n_players)
    if wrong:
        raise IndexError(f"no players {wrong}: the model has players 0..{n_players - 1}")
    return frozenset(indices)
