"""A race of finalists over more text."""

from collections.abc import Sequence

import numpy as np

from shapcut.game.coalitions import CoalitionMatrix
from shapcut.game.game import Game


def race(leaders: CoalitionMatrix, finals: Sequence[Game]) -> tuple[int, float | None]:
    """The best of a few coalitions by successive halving.

    All are measured in the first game. Whenever the number of games has doubled, the half with the lower mean
    drops out, until two are left (Jamieson and Talwalkar, AISTATS 2016).

    Args:
        leaders: the coalitions, best guess first, shape (n, n_players).
        finals: games on texts of equal length.

    Returns:
        The winner's row and its mean over all games; None if there are no games.
    """
    alive, totals = np.arange(len(leaders)), np.zeros(len(leaders))
    for seen, game in enumerate(finals, 1):
        totals[alive] += np.nan_to_num(game.values(leaders[alive]), nan=-np.inf)
        ranked = alive[np.argsort(-totals[alive], kind="stable")]
        doubled = seen & (seen - 1) == 0
        alive = np.sort(ranked[: max(2, -(-len(ranked) // 2))]) if doubled else alive
    winner = int(alive[np.argmax(totals[alive])])
    return winner, float(totals[winner]) / len(finals) if finals else None
