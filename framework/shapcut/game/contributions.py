"""Each player's contribution, with error bars and the measured coalitions."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shapcut.game.coalitions import CoalitionMatrix, Values, without
from shapcut.game.game import Measurements
from shapcut.game.interval import Interval, rank_interval
from shapcut.game.surrogate import Surrogate
from shapcut.support.html_table import html_table

_RELIABLE = 0.5
"""A rank correlation from which on predictions are worth following."""

Refit = Callable[[Values, np.random.Generator | None], NDArray[np.float64] | None]
"""Contributions (n_players,) from other values (n_coalitions,) of the same coalitions.

With a generator, from a resample of the coalitions; None if the estimator cannot do that."""


@dataclass(frozen=True, slots=True)
class Fidelity:
    """How well a surrogate predicts held-out coalitions.

    Attributes:
        r_squared: 1 minus squared error over variance; below 0 is worse than the mean. None if undefined.
        spearman: rank correlation. None if undefined.
        spearman_good: rank correlation among the better half.
        coalitions: number of held-out coalitions.
        pairs: predicted and measured value of each, in the utility's unit.
        absent: number of absent players of each; empty if unknown.
        at_target: the fidelity on those that lack as many players as are to be removed; None if that
            number is unknown.
    """

    r_squared: float | None
    spearman: float | None
    spearman_good: float | None
    coalitions: int
    pairs: tuple[tuple[float, float], ...] = field(default=(), compare=False, repr=False)
    absent: tuple[int, ...] = field(default=(), compare=False, repr=False)
    at_target: "TargetFidelity | None" = field(default=None, compare=False)

    @classmethod
    def of(
        cls,
        predicted: Values,
        measured: Values,
        coalitions: CoalitionMatrix | None = None,
        n_remove: int | None = None,
    ) -> "Fidelity":
        """Compare predictions with measurements, both (n,), of held-out coalitions, (n, n_players).

        ``n_remove`` is the number of players to remove, if it is known.
        """
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
            at_target=None
            if coalitions is None or n_remove is None
            else TargetFidelity.of(predicted, measured, coalitions, n_remove),
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
            "at_target": None if self.at_target is None else self.at_target.to_json(),
        }


@dataclass(frozen=True, slots=True)
class TargetFidelity:
    """How well a surrogate predicts held-out coalitions of the size that is removed.

    Attributes:
        n_remove: number of absent players.
        coalitions: number of such coalitions.
        r_squared: as in `Fidelity`, among them.
        spearman: their rank correlation. None if undefined.
        interval: 95 % interval of ``spearman``.
        ordered: share of their pairs, ties left out, whose better one is predicted to be better.
    """

    n_remove: int
    coalitions: int
    r_squared: float | None
    spearman: float | None
    interval: Interval | None
    ordered: float | None

    @classmethod
    def of(
        cls, predicted: Values, measured: Values, coalitions: CoalitionMatrix, n_remove: int
    ) -> "TargetFidelity":
        """Compare predictions with measurements of the coalitions that lack ``n_remove`` players."""
        same = (~coalitions).sum(axis=1) == n_remove
        found = Fidelity.of(predicted[same], measured[same])
        return cls(
            n_remove=n_remove,
            coalitions=found.coalitions,
            r_squared=found.r_squared,
            spearman=found.spearman,
            interval=None if found.spearman is None else rank_interval(found.spearman, found.coalitions),
            ordered=_ordered(predicted[same], measured[same]),
        )

    def in_words(self) -> str:
        """What the figures mean, and whether they exceed chance."""
        which = f"on {self.coalitions} held-out coalitions that lack {self.n_remove} players, as the cut does"
        if self.spearman is None or self.ordered is None or self.interval is None:
            return f"{which}: too few, or too much alike, to judge the surrogate by"
        ends = f"{self.interval.low:.3f} to {self.interval.high:.3f}"
        found = (
            f"{which}: R^2 {_figure(self.r_squared)}, Spearman {self.spearman:.3f} ({ends}); of two of them "
            f"the surrogate names the better one in {self.ordered:.0%} of cases"
        )
        if self.interval.low <= 0.0:
            return f"{found}, which is not told apart from guessing"
        doubt = ", too few to rely on: trust measured values, not predicted ones"
        return found + ("" if self.interval.low >= _RELIABLE else doubt)

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        ends = None if self.interval is None else [self.interval.low, self.interval.high]
        return {
            "n_remove": self.n_remove,
            "coalitions": self.coalitions,
            "r_squared": self.r_squared,
            "spearman": self.spearman,
            "spearman_interval": ends,
            "pairs_ordered": self.ordered,
            "in_words": self.in_words(),
        }


def _figure(number: float | None) -> str:
    return "undefined" if number is None else f"{number:.3f}"


def _ordered(predicted: Values, measured: Values) -> float | None:
    """The share of pairs with different values that predictions order as measurements do."""
    right = total = 0
    for row in range(len(measured) - 1):  # a row at a time, as there may be thousands
        truth = np.sign(measured[row] - measured[row + 1 :])
        said = np.sign(predicted[row] - predicted[row + 1 :])
        right += int(((truth == said) & (truth != 0)).sum())
        total += int((truth != 0).sum())
    return right / total if total else None


def _rank_correlation(left: Values, right: Values) -> float | None:
    if len(left) < 3 or np.ptp(left) == 0 or np.ptp(right) == 0:  # noqa: PLR2004 - a rank needs three points
        return None
    from scipy.stats import spearmanr  # noqa: PLC0415 - a second to import

    columns: Any = (left, right)
    return float(spearmanr(*columns).statistic)


@dataclass(frozen=True, slots=True)
class Robustness:
    """How much contributions depend on the drawn coalitions and on the calibration text.

    Attributes:
        resamples: number of bootstrap resamples of the measured coalitions.
        bootstrap_errors: standard deviation of each contribution over resamples, (n_players,), if known.
        rank_stability: mean Kendall's tau between a resample's ranking and the full one; None if unknown.
        halves_kendall: Kendall's tau between contributions from two disjoint halves of the text, if known.
        halves_spearman: their rank correlation, if known.
        halves_coalitions: number of coalitions with finite values on both halves.
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
        values: shape (n_players,), in the game's unit; players with high values are worth keeping.
        standard_errors: shape (n_players,).
        weighting: which coalitions the values average over.
        estimator: name of the estimator.
        full_value: the value of all players together, or None if it was not measured or is not finite.
        coalitions: every measured coalition, shape (evaluations, n_players).
        measured: their values, shape (evaluations,); non-finite ones are excluded from every fit.
        estimated: of the last coalitions, if these were measured on a part of the text: values estimated for
            all of it and for its halves, shape (number of them, 3).
        fidelity: the surrogate's fidelity on held-out coalitions, if there is a surrogate.
        interactions: pairwise effect on the value of two players being absent together, (n, n), if known.
        interaction_errors: standard error of each interaction's distance from the mean of all pairs, (n, n),
            if known.
        surrogate: the fitted surrogate, for selectors that search it.
        refit: contributions from other values of the same coalitions, if the estimator supports it.
        robustness: see `Robustness`; None if it was not computed.
    """

    values: NDArray[np.float64]
    standard_errors: NDArray[np.float64]
    weighting: str
    estimator: str
    full_value: float | None
    coalitions: CoalitionMatrix
    measured: Values
    estimated: Measurements = field(default_factory=lambda: np.empty((0, 3)), compare=False)
    fidelity: Fidelity | None = None
    interactions: NDArray[np.float64] | None = None
    interaction_errors: NDArray[np.float64] | None = field(default=None, compare=False)
    surrogate: Surrogate | None = field(default=None, compare=False)
    refit: Refit | None = field(default=None, compare=False)
    robustness: Robustness | None = field(default=None, compare=False)

    @property
    def evaluations(self) -> int:
        """Number of measured coalitions."""
        return len(self.measured)

    @property
    def on_all_text(self) -> NDArray[np.bool_]:
        """Which coalitions were measured on all text, shape (evaluations,)."""
        return np.arange(self.evaluations) < self.evaluations - len(self.estimated)

    @property
    def excluded(self) -> int:
        """Number of coalitions without a finite value."""
        return int((~np.isfinite(self.measured)).sum())

    @property
    def removal_costs(self) -> NDArray[np.float64]:
        """Each player's contribution, infinite where it is unknown, shape (n_players,)."""
        return np.nan_to_num(self.values, nan=np.inf)

    def ranking(self) -> list[int]:
        """Players by contribution, lowest first; ties by index, unknown ones last."""
        order: list[int] = np.argsort(self.removal_costs, kind="stable").tolist()
        return order

    def lookup(self, absent: Sequence[int]) -> Values:
        """The value measured on all text without these players, shape (1,), or empty if unknown."""
        row = without(self.coalitions.shape[1], [absent])
        found: Values = self.measured[(self.coalitions == row).all(axis=1) & self.on_all_text]
        return found

    def _repr_html_(self) -> str:
        rows = [
            (player, f"{self.values[player]:.4g}", f"{self.standard_errors[player]:.2g}")
            for player in self.ranking()
        ]
        caption = f"contributions ({self.weighting}), {self.evaluations} coalitions measured"
        return html_table(caption, ("player", "contribution", "standard error"), rows)

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
            "interactions": _rows(self.interactions),
            "interaction_errors": _rows(self.interaction_errors),
        }


def _rows(matrix: NDArray[np.float64] | None) -> list[list[float | None]] | None:
    return None if matrix is None else [[_short(number) for number in row] for row in matrix.tolist()]


def _plain(number: float) -> float | None:
    return number if np.isfinite(number) else None


def _short(number: float) -> float | None:
    """Round to six digits, enough for a plot."""
    return _plain(float(f"{number:.6g}"))
