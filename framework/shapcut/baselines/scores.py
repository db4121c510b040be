"""Contributions from scores, without measured coalitions."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from shapcut.game.coalitions import Player
from shapcut.game.contributions import Contributions


def scored(
    players: Sequence[Player],
    values: NDArray[np.float64],
    *,
    estimator: str,
    weighting: str,
    errors: NDArray[np.float64] | None = None,
) -> Contributions:
    """Contributions from one score per player; players that are not removable get NaN.

    Args:
        players: the game's players.
        values: shape (n_players,); the lowest is removed first.
        estimator: name of the estimator.
        weighting: the score in words.
        errors: standard errors, shape (n_players,); None if unknown.
    """
    defined = np.where([player.removable for player in players], 1.0, np.nan)
    return Contributions(
        values=defined * values,
        standard_errors=defined * (np.full(len(players), np.nan) if errors is None else errors),
        weighting=weighting,
        estimator=estimator,
        full_value=None,
        coalitions=np.empty((0, len(players)), dtype=np.bool_),
        measured=np.empty(0, dtype=np.float64),
    )


def protected(n_players: int, keep_first: int, keep_last: int) -> NDArray[np.float64]:
    """Factors that set the scores of the first and last players to NaN, which is removed last.

    Raises:
        ValueError: if a count is negative.
    """
    if keep_first < 0 or keep_last < 0:
        raise ValueError(f"keep_first={keep_first}, keep_last={keep_last}: neither can be negative")
    factors = np.ones(n_players)
    factors[:keep_first] = np.nan
    factors[n_players - keep_last :] = np.nan
    return factors
