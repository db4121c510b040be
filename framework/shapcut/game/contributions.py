"""What an estimator found out about each player, with error bars and the evidence."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shapcut.game.coalitions import CoalitionMatrix, Values
from shapcut.game.surrogate import Surrogate

Refit = Callable[[Values, np.random.Generator | None], NDArray[np.float64] | None]
"""Contributions (n_players,) that the same coalitions would have given with other values (n_coalitions,).

With a generator, from a resample of the coalitions; None where that makes no sense."""


@dataclass(frozen=True, slots=True)
class Fidelity:
    """How well a surrogate predicts coalitions that it was not fitted to.

    Attributes:
        r_squared: 1 minus squared error over variance; below 0 is worse than the mean. None if undefined.
        spearman: rank correlation. None if undefined.
        spearman_good: rank correlation among the better half.
        coalitions: how many held-out coalitions were compared.
        pairs: what was predicted and what was measured for each of them, in the utility's unit.
        absent: how many players each of them lacks; empty if unknown.
    """

    r_squared: float | None
    spearman: float | None
    spearman_good: float | None
    coalitions: int
    pairs: tuple[tuple[float, float], ...] = field(default=(), compare=False, repr=False)
    absent: tuple[int, ...] = field(default=(), compare=False, repr=False)

    @classmethod
    def of(cls, predicted: Values, measured: Values, coalitions: CoalitionMatrix | None = None) -> "Fidelity":
        """Compare predictions with measurements, both (n,), of held-out coalitions, (n, n_players)."""
        good = measured >= np.median(measured) if len(measured) else np.zeros(0, dtype=np.bool_)
        varied = len(measured) > 0 and np.ptp(measured) > 0  # rounding gives equal values a variance
        error = float(((measured - predicted) ** 2).sum())
        return cls(
            r_squared=1.0 - error / float(((measured - measured.mean()) ** 2).sum()) if varied else None,
            spearman=_rank_correlation(predicted, measured),
            spearman_good=_rank_correlation(predicted[good], measured[good]),
            coalitions=len(measured),
            pairs=tuple(zip(predicted.tolist(), measured.tolist(), strict=True)),
            absent=() if coalitions is None else tuple((~coalitions).sum(axis=1).tolist()),
        )

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "r_squared": self.r_squared,
            "spearman": self.spearman,
            "spearman_better_half": self.spearman_good,
            "coalitions": self.coalitions,
            "predicted": [_short(predicted) for predicted, _ in self.pairs],
            "measured": [_short(measured) for _, measured in self.pairs],
            "absent": list(self.absent),
        }


def _rank_correlation(left: Values, right: Values) -> float | None:
    if len(left) < 3 or np.ptp(left) == 0 or np.ptp(right) == 0:  # noqa: PLR2004 - a rank needs three points
        return None
    from scipy.stats import spearmanr  # noqa: PLC0415 - a second to import

    columns: Any = (left, right)
    return float(spearmanr(*columns).statistic)


@dataclass(frozen=True, slots=True)
class Robustness:
    """How much contributions depend on which coalitions were drawn and on the calibration text.

    Attributes:
        resamples: how often the coalitions were drawn anew from those measured.
        bootstrap_errors: standard deviation of each contribution over resamples, (n_players,), if known.
        rank_stability: mean Kendall's tau between a resample's ranking and that of all; None if unknown.
        halves_kendall: Kendall's tau between contributions from two disjoint halves of the text, if known.
        halves_spearman: their rank correlation, if known.
        halves_coalitions: how many coalitions have finite values on both halves.
    """

    resamples: int
    bootstrap_errors: NDArray[np.float64] | None
    rank_stability: float | None
    halves_kendall: float | None
    halves_spearman: float | None
    halves_coalitions: int

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        errors = self.bootstrap_errors
        return {
            "resamples": self.resamples,
            "rank_stability_kendall": self.rank_stability,
            "bootstrap_standard_errors": None if errors is None else [_plain(e) for e in errors.tolist()],
            "calibration_halves": {
                "kendall": self.halves_kendall,
                "spearman": self.halves_spearman,
                "coalitions": self.halves_coalitions,
            },
        }


@dataclass(frozen=True)
class Contributions:
    """Each player's contribution to the value.

    Attributes:
        values: shape (n_players,), in the game's unit; the higher, the more the player is worth keeping.
        standard_errors: shape (n_players,).
        weighting: which coalitions the values average over.
        estimator: who estimated.
        full_value: the value of all players together, or None if it was not measured or is not finite.
        coalitions: every coalition measured, shape (evaluations, n_players).
        measured: their values, shape (evaluations,); non-finite ones are excluded from every fit.
        fidelity: of the surrogate on held-out coalitions, if there is a surrogate.
        interactions: pairwise effect on the value of two players' being absent together, (n, n), if known.
        surrogate: the fitted surrogate, for selectors that search it.
        refit: what other values of the same coalitions would have given, if the estimator tells.
        robustness: see `Robustness`; None if it was not examined.
    """

    values: NDArray[np.float64]
    standard_errors: NDArray[np.float64]
    weighting: str
    estimator: str
    full_value: float | None
    coalitions: CoalitionMatrix
    measured: Values
    fidelity: Fidelity | None = None
    interactions: NDArray[np.float64] | None = None
    surrogate: Surrogate | None = field(default=None, compare=False)
    refit: Refit | None = field(default=None, compare=False)
    robustness: Robustness | None = field(default=None, compare=False)

    @property
    def evaluations(self) -> int:
        """How many coalitions were measured."""
        return len(self.measured)

    @property
    def excluded(self) -> int:
        """How many of them had no finite value."""
        return int((~np.isfinite(self.measured)).sum())

    def to_json(self) -> dict[str, Any]:
        """Plain data for contributions.json; the evaluations themselves are in the store."""
        return {
            "format_version": 1,
            "estimator": self.estimator,
            "weighting": self.weighting,
            "full_value": None if self.full_value is None else _plain(self.full_value),
            "evaluations": self.evaluations,
            "excluded_non_finite": self.excluded,
            "players": [
                {"player": index, "value": _plain(value), "standard_error": _plain(error)}
                for index, (value, error) in enumerate(
                    zip(self.values.tolist(), self.standard_errors.tolist(), strict=True)
                )
            ],
            "fidelity_held_out": None if self.fidelity is None else self.fidelity.to_json(),
            "robustness": None if self.robustness is None else self.robustness.to_json(),
            "interactions": None
            if self.interactions is None
            else [[_short(number) for number in row] for row in self.interactions.tolist()],
        }


def _plain(number: float) -> float | None:
    return number if np.isfinite(number) else None


def _short(number: float) -> float | None:
    """To six digits: enough to draw."""
    return _plain(float(f"{number:.6g}"))
