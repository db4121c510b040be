"""Who does best in a comparison, as far as the intervals say so."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from shapcut.comparison.row import ResultRow
from shapcut.game.interval import Interval, Ratio, mean_interval


@dataclass(frozen=True, slots=True)
class Standing:
    """One method for one number of players to remove, over its seeds.

    Attributes:
        method: the method.
        n_remove: the number of players.
        seeds: number of seeds.
        finite: number of seeds with a finite perplexity.
        perplexity: geometric mean over seeds; None unless all are finite.
        interval: its 95 % interval over windows, for the sets of these seeds (t).
        lowest: the best seed's perplexity, if one is finite.
        highest: the worst finite seed's.
        over_best: the perplexity over that of the method with the lowest one, paired by window.
        best: whether it has the lowest perplexity or is not told apart from it: the interval of ``over_best``
            contains 1, or some seed's perplexity is no higher.
        tokens: processed tokens, mean over seeds.
        seconds: time taken, mean over seeds.
    """

    method: str
    n_remove: int
    seeds: int
    finite: int
    perplexity: float | None
    interval: Interval | None
    lowest: float | None
    highest: float | None
    over_best: Ratio | None
    best: bool
    tokens: float
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self) | {
            "interval": None if self.interval is None else [self.interval.low, self.interval.high],
            "over_best": None if self.over_best is None else self.over_best.to_json(),
        }


@dataclass(frozen=True, slots=True)
class Summary:
    """One method over all numbers of players to remove.

    Attributes:
        method: the method.
        perplexity: geometric mean over numbers and seeds; None unless it has a finite one everywhere.
        best: at how many of the numbers it is best, or not told apart from the best.
        sizes: how many numbers there are.
        tokens: processed tokens, mean over numbers and seeds.
        seconds: time taken, mean over numbers and seeds.
    """

    method: str
    perplexity: float | None
    best: int
    sizes: int
    tokens: float
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


def standings(rows: Sequence[ResultRow]) -> list[Standing]:
    """The methods for each number of players, the lowest perplexity first."""
    found: list[Standing] = []
    for n_remove in sorted({row.n_remove for row in rows}):
        here = [row for row in rows if row.n_remove == n_remove]
        methods = dict.fromkeys(row.method for row in here)
        own = {method: [row for row in here if row.method == method] for method in methods}
        first = min(own, key=lambda method: _mean(own[method]) or math.inf)
        ranked = sorted(own, key=lambda method: (_mean(own[method]) or math.inf, method != first))
        found += [_standing(own[method], own[first]) for method in ranked]
    return found


def summaries(found: Sequence[Standing]) -> list[Summary]:
    """The methods over all numbers of players, those that are best most often first."""
    methods = dict.fromkeys(standing.method for standing in found)
    sizes = len({standing.n_remove for standing in found})
    made = [_summary([each for each in found if each.method == method], sizes) for method in methods]
    return sorted(made, key=lambda each: (-each.best, each.perplexity or math.inf))


def verdicts(found: Sequence[Standing]) -> dict[int, str]:
    """For each number of players a sentence on who does best, and at what cost."""
    return {
        n_remove: _verdict([each for each in found if each.n_remove == n_remove])
        for n_remove in dict.fromkeys(each.n_remove for each in found)
    }


def _standing(rows: Sequence[ResultRow], first: Sequence[ResultRow]) -> Standing:
    known = [row.held_out_perplexity for row in rows if row.held_out_perplexity is not None]
    worked = [row for row in rows if not row.failure] or list(rows)
    perplexity, nats = _mean(rows), _windows(rows)
    interval = None if perplexity is None or nats is None else mean_interval(nats.mean(axis=0).tolist())
    over_best = None if perplexity is None else _over(rows, first)
    leads = rows[0].method == first[0].method
    behind = over_best is not None and over_best.told_apart and _always_behind(rows, first)
    return Standing(
        method=rows[0].method,
        n_remove=rows[0].n_remove,
        seeds=len(rows),
        finite=len(known),
        perplexity=perplexity,
        interval=None if interval is None else interval.exp(),
        lowest=min(known, default=None),
        highest=max(known, default=None),
        over_best=None if leads else over_best,
        best=perplexity is not None and (leads or not behind),
        tokens=sum(row.tokens for row in worked) / len(worked),
        seconds=sum(row.seconds for row in worked) / len(worked),
    )


def _always_behind(rows: Sequence[ResultRow], first: Sequence[ResultRow]) -> bool:
    """Whether a method's perplexity is above the leader's for every seed."""
    leader = {row.seed: row.held_out_perplexity or math.inf for row in first}
    return all((row.held_out_perplexity or math.inf) > leader.get(row.seed, math.inf) for row in rows)


def _over(rows: Sequence[ResultRow], first: Sequence[ResultRow]) -> Ratio | None:
    """The perplexity over the leader's, on the seeds that both have."""
    leader = {row.seed: row for row in first}
    pairs = [(row, leader[row.seed]) for row in rows if row.seed in leader]
    nats = [_windows([side[which] for side in pairs]) for which in (0, 1)] if pairs else [None, None]
    if nats[0] is None or nats[1] is None or nats[0].shape != nats[1].shape:
        return None
    difference = nats[0] - nats[1]
    interval = mean_interval(difference.mean(axis=0).tolist())
    return Ratio(math.exp(float(difference.mean())), None if interval is None else interval.exp())


def _windows(rows: Sequence[ResultRow]) -> Any:
    """Loss of each seed on each held-out window, shape (seeds, windows); None if one is unknown."""
    lengths = {len(row.held_out_nats) for row in rows}
    return np.array([row.held_out_nats for row in rows]) if len(lengths) == 1 and 0 not in lengths else None


def _mean(rows: Sequence[ResultRow]) -> float | None:
    known = [row.held_out_perplexity for row in rows if row.held_out_perplexity is not None]
    return geometric_mean(known) if known and len(known) == len(rows) else None


def geometric_mean(perplexities: Sequence[float]) -> float:
    """The perplexity of the mean loss: one outlier does not decide it."""
    return math.exp(sum(map(math.log, perplexities)) / len(perplexities))


def _summary(own: Sequence[Standing], sizes: int) -> Summary:
    known = [each.perplexity for each in own if each.perplexity is not None]
    return Summary(
        method=own[0].method,
        perplexity=geometric_mean(known) if len(known) == sizes else None,
        best=sum(each.best for each in own),
        sizes=sizes,
        tokens=sum(each.tokens for each in own) / len(own),
        seconds=sum(each.seconds for each in own) / len(own),
    )


def _verdict(here: Sequence[Standing]) -> str:
    tied = [each for each in here if each.best]
    if not tied:
        return "No method has a finite result for every seed."
    first = tied[0]
    text = f"perplexity {_around(first)}"
    if len(tied) > 1:
        cheapest, dearest = (choose(tied, key=lambda each: each.tokens) for choose in (min, max))
        return (
            f"{', '.join(each.method for each in tied[:-1])} and {tied[-1].method} are not told apart; the "
            f"lowest {text}. Of them {cheapest.method} processed the fewest tokens, {cheapest.tokens:,.0f}, "
            f"and {dearest.method} the most, {dearest.tokens:,.0f}."
        )
    if len(here) == 1:
        return f"{first.method}: {text}."
    others = [each for each in here[1:] if each.over_best is not None]
    if not others:
        return f"{first.method} does best: {text}; no other method has a finite result for every seed."
    second = others[0]
    ratio = second.over_best
    margin = "" if ratio is None else f" ({ratio.change()} above it)"
    return f"{first.method} does best: {text}; next is {second.method} with {second.perplexity:,.2f}{margin}."


def _around(standing: Standing) -> str:
    ends = standing.interval
    text = f"{standing.perplexity:,.2f}"
    return text if ends is None else f"{text} ({ends.low:,.2f} to {ends.high:,.2f})"
