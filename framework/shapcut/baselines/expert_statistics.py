"""Statistics of experts over tokens: published baselines, and first evidence for searches."""

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from shapcut.baselines.scores import scored
from shapcut.estimators.base import EstimationProblem, Estimator
from shapcut.game.contributions import Contributions
from shapcut.game.game import Game
from shapcut.game.groups import Groups
from shapcut.models.adapter import ExpertStatistic
from shapcut.support.errors import InputError, UnsupportedModelError
from shapcut.valuation.model_access import ModelAccess, require_access


class ExpertStatisticEstimator(Estimator):
    """Base class of estimators that score experts by a statistic of one forward pass."""

    handles_groups = True
    statistic: ClassVar[ExpertStatistic]
    weighting: ClassVar[str]

    def estimate(self, problem: EstimationProblem) -> Contributions:
        """See `Estimator.estimate`; measures no coalition.

        Raises:
            InputError: if the game has no model, or its players are not experts.
        """
        access = require_access(problem.game, f"estimator {self.name!r}")
        if access.granularity != "expert":
            raise InputError(f"estimator {self.name!r} scores experts; use --granularity expert")
        values = expert_statistics(access, Groups.of(problem.players))[self.statistic]
        weighting = f"{self.weighting}; no coalition was measured"
        return scored(problem.players, values, estimator=self.name, weighting=weighting)


class FrequencyEstimator(ExpertStatisticEstimator):
    """How many tokens are routed to an expert.

    Source: SEER-MoE, Muzio et al., arXiv 2404.05089, section 3 (hard counting).
    """

    name = "frequency"
    statistic = "frequency"
    weighting = "share of the tokens that are routed to an expert"


class ActivationNormEstimator(ExpertStatisticEstimator):
    """The sum over its tokens of the norm of an expert's output: expert activation norm.

    Source: Jaiswal et al., "Finding Fantastic Experts in MoEs", arXiv 2504.05586.
    """

    name = "ean"
    statistic = "ean"
    weighting = "norm of an expert's output, summed over its tokens"


class ReapEstimator(ExpertStatisticEstimator):
    """The router's weight times the norm of an expert's output, mean over its tokens.

    Source: REAP, Lasby et al., arXiv 2510.13999.
    """

    name = "reap"
    statistic = "reap"
    weighting = "router weight times norm of an expert's output, mean over its tokens"


def expert_statistics(access: ModelAccess, groups: Groups) -> dict[ExpertStatistic, NDArray[np.float64]]:
    """Statistics of every player on the calibration tokens, each of shape (n_players,); charges the pass.

    Raises:
        UnsupportedModelError: if the adapter cannot observe this model's experts.
    """
    found = access.adapter.expert_statistics(access.model, access.input_ids)
    access.charge(len(groups))
    return {name: np.asarray(values, dtype=np.float64) for name, values in found.items()}


def first_evidence(game: Game) -> NDArray[np.float64] | None:
    """Published statistics of each expert over the mean of its group; None without experts.

    Players beside experts have no score, which is NaN.

    Returns:
        The activation norm, the frequency, REAP's mean of weighted norms, and their sum, which is the mean
        times the frequency; shape (4, n_players).
    """
    access = game.access
    if not isinstance(access, ModelAccess) or access.granularity not in {"expert", "mixed"}:
        return None
    groups = Groups.of(game.players)
    try:
        found = expert_statistics(access, groups)
    except UnsupportedModelError:
        return None
    scores = (found["ean"], found["frequency"], found["reap"], found["reap"] * found["frequency"])
    experts = groups.labels >= 0
    relative = np.full((len(scores), game.n_players), np.nan)
    relative[:, experts] = [_relative(score, groups.labels[experts]) for score in scores]
    return relative


def _relative(score: NDArray[np.float64], labels: NDArray[np.int64]) -> NDArray[np.float64]:
    """A score over the mean of its group."""
    means = np.bincount(labels, weights=score) / np.bincount(labels)
    relative: NDArray[np.float64] = score / np.where(means > 0.0, means, 1.0)[labels]
    return relative
