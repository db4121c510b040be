"""The least work of a default run: coalitions on a quarter of the text that share their prefixes."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from shapcut.estimators.base import EstimationProblem, Estimator
from shapcut.estimators.main_effects import MOST_PLAYERS_WITH_PAIRS
from shapcut.estimators.sampling import GuidedSampler, not_among
from shapcut.estimators.surrogate import PART, SHARE, SurrogateEstimator, single_absences
from shapcut.game.budget import capped_budget
from shapcut.game.coalitions import CoalitionMatrix, Player, keys
from shapcut.game.game import Game
from shapcut.game.groups import Groups
from shapcut.recipe.recipe import Recipe


@dataclass(frozen=True, slots=True)
class SharedWork:
    """The work of the estimator alone, as in a run whose search finds nothing new.

    Attributes:
        coalitions: number of coalitions that it measures on a part of the text.
        part: it reads one part in so many.
        block_runs: runs of one block on all of the text, prefixes shared.
    """

    coalitions: int
    part: int
    block_runs: float


def shared_work(estimator: Estimator, game: Game, recipe: Recipe, n_remove: int | None) -> SharedWork | None:
    """Draw coalitions as the default estimator does where all absences cost the same, and count blocks.

    Args:
        estimator: the recipe's.
        game: the players.
        recipe: the recipe.
        n_remove: number of players to remove; None: unknown.

    Returns:
        None for another estimator, for a target that is unknown, and for players that are no blocks.
    """
    players, budget = game.players, capped_budget(recipe.budget, game.players)
    if not isinstance(estimator, SurrogateEstimator) or n_remove is None or not _plain(players):
        return None
    rng = np.random.default_rng(recipe.seed)
    problem = EstimationProblem(game, budget, rng, n_remove)
    singles, part = single_absences(problem), max(1, min(PART, recipe.samples))
    count = int(((estimator.share or SHARE) * budget - 1) * part) - len(singles)
    if len(singles) > budget or count < 1:
        return None
    sampler = estimator.sampler or GuidedSampler(
        np.zeros(len(players)), min(n_remove + 1, len(problem.candidates))
    )
    drawn = not_among(sampler.sample(players, count + len(singles), rng), set(keys(singles)))[:count]
    measured = np.vstack([singles, drawn])
    return SharedWork(len(measured), part, prefix_runs(measured) / part + len(players))


def _plain(players: Sequence[Player]) -> bool:
    return len(Groups.of(players)) == 1 and len(players) <= MOST_PLAYERS_WITH_PAIRS


def prefix_runs(coalitions: CoalitionMatrix) -> int:
    """Runs of one player if coalitions that agree on the players so far run them once."""
    runs, prefix = 0, np.zeros(len(coalitions), dtype=np.int64)
    for present in coalitions.T:
        distinct, prefix = np.unique(2 * prefix + present, return_inverse=True)
        runs += int((distinct % 2).sum())
    return runs
