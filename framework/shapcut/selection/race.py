"""Races: candidates are measured on more and more text, and the worse half drops out."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shapcut.game.coalitions import CoalitionMatrix, Values
from shapcut.game.game import Game
from shapcut.game.interval import LEVEL, mean_interval


@dataclass(frozen=True, slots=True)
class Outcome:
    """The end of a race.

    Attributes:
        winner: the winner's row.
        value: its mean over all games; None if there are no games.
        told_apart: whether it is better than the others that were left, by paired t intervals over the games.
    """

    winner: int
    value: float | None
    told_apart: bool


def race(leaders: CoalitionMatrix, finals: Sequence[Game], kept: Sequence[int] = ()) -> Outcome:
    """The best of a few coalitions by successive halving.

    All are measured in the first game. Whenever the number of games has doubled, the half with the lower mean
    drops out, until two are left (Jamieson and Talwalkar, AISTATS 2016). In the second half of the games, the
    others drop out as soon as they are told apart from the leader, which is measured to the end. As that is
    asked after each game, the intervals are those that hold together (Bonferroni).

    Args:
        leaders: the coalitions, best guess first, shape (n, n_players).
        finals: games on texts of equal length.
        kept: rows that do not drop out before the second half of the games, however they rank.
    """
    alive: NDArray[np.intp] = np.arange(len(leaders))
    always, totals = np.array(kept, dtype=np.intp), np.zeros(len(leaders))
    found, told_apart = np.full((len(leaders), len(finals)), -np.inf), False
    looks = len(finals) - len(finals) // 2
    for seen, game in enumerate(finals, 1):
        found[alive, seen - 1] = np.nan_to_num(game.values(leaders[alive]), nan=-np.inf)
        totals[alive] += found[alive, seen - 1]
        ranked = alive[np.argsort(-totals[alive], kind="stable")]
        if seen & (seen - 1) == 0:
            alive = np.union1d(ranked[: max(2, -(-len(ranked) // 2))], always)
        if seen > len(finals) - looks and len(alive) > 1:
            leads = [_lead(found[ranked[0], :seen], found[other, :seen]) for other in ranked[1:]]
            told_apart = all(_is_positive(lead, 1.0 - (1.0 - LEVEL) / looks) for lead in leads)
            alive = ranked[:1] if told_apart else alive
    winner = int(alive[np.argmax(totals[alive])])
    return Outcome(winner, float(totals[winner]) / len(finals) if finals else None, told_apart)


def _is_positive(lead: Sequence[float], level: float) -> bool:
    interval = mean_interval(lead, level=level)
    return interval is not None and interval.low > 0.0


def _lead(first: Values, second: Values) -> list[float]:
    with np.errstate(invalid="ignore"):  # neither is finite
        lead: list[float] = (first - second).tolist()
    return lead


class Heats:
    """Successive halving on the first windows of one game's text.

    All candidates are measured on a quarter of the tokens, the better half on half of them, the better half
    of these on all. A value on more tokens adds to the one on fewer, so that a candidate costs little more
    than half of a coalition. Those that dropped out keep an estimate: their value on a part of the text,
    plus what the rest of the text changed for those that reached the end.

    Args:
        game: the game; one that has no narrower form measures all candidates at once.
    """

    def __init__(self, game: Game) -> None:
        self._games = [game]
        for share in (2, 4):
            narrower = game.narrowed(game.tokens_of_part(share))
            if narrower.tokens < self._games[0].tokens:
                self._games.insert(0, narrower)

    def run(self, candidates: CoalitionMatrix) -> tuple[Values, NDArray[np.bool_]]:
        """Values of all candidates, and which were measured on all text; each of shape (n_candidates,)."""
        alive, found = np.arange(len(candidates)), np.full((len(self._games), len(candidates)), np.nan)
        for heat, game in enumerate(self._games):
            found[heat, alive] = game.values(candidates[alive])
            if heat + 1 < len(self._games):
                order = np.argsort(-np.nan_to_num(found[heat, alive], nan=-np.inf), kind="stable")
                alive = np.sort(alive[order[: -(-len(alive) // 2)]])
        values, measured = found[-1].copy(), np.isin(np.arange(len(candidates)), alive)
        for part in found[-2::-1]:
            changes = (found[-1] - part)[np.isfinite(found[-1]) & np.isfinite(part)]
            unknown = ~measured & np.isnan(values)
            values[unknown] = part[unknown] + (changes.mean() if len(changes) else np.nan)
        return values, measured
