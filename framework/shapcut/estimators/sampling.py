"""Samplers: which coalitions to measure."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from shapcut.game.coalitions import CoalitionMatrix, Player, distinct, keys
from shapcut.game.groups import Groups
from shapcut.support.errors import InputError

REFERENCE_PRESENT_FRACTIONS = (30 / 32, 27 / 32, 24 / 32, 21 / 32, 18 / 32)
"""Coalition sizes of the paper for 32 layers, as shares of the depth (arXiv 2602.07804)."""

_ATTEMPTS, _ATTEMPTS_FOR_SIZES = 50, 5
_LARGEST_LOG_WEIGHT = 1e6


class Sampler(ABC):
    """Draws coalitions of removable players; players that are not removable are always present."""

    weighting: str
    """How an average over samples weighs coalitions, in words for the user."""

    @abstractmethod
    def draw(self, players: Sequence[Player], count: int, rng: np.random.Generator) -> CoalitionMatrix:
        """``count`` coalitions, repeats possible, shape (count, n_players)."""

    def sample(self, players: Sequence[Player], budget: int, rng: np.random.Generator) -> CoalitionMatrix:
        """Up to ``budget`` distinct coalitions; fewer if no more are found.

        Repeats are replaced by other coalitions of their size, if these are found soon.
        """
        drawn = self.draw(players, budget, rng)
        wanted = np.bincount(drawn.sum(axis=1), minlength=len(players) + 1)
        found = distinct(drawn)
        for attempt in range(_ATTEMPTS):
            enough = len(found) >= budget
            if enough and (attempt >= _ATTEMPTS_FOR_SIZES or _within(found, wanted).sum() >= budget):
                break
            found = distinct(np.vstack([found, self.draw(players, budget, rng)]))
        first = np.argsort(~_within(found, wanted), kind="stable")[:budget]
        return found[np.sort(first)]


def _within(coalitions: CoalitionMatrix, wanted: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether each row is among the first ``wanted[size]`` rows of its size."""
    size = coalitions.sum(axis=1)
    order = np.argsort(size, kind="stable")
    place = np.empty_like(order)
    place[order] = np.arange(len(size)) - np.searchsorted(size[order], size[order])
    among: NDArray[np.bool_] = place < wanted[size]
    return among


def removable(players: Sequence[Player]) -> NDArray[np.int64]:
    """Indices of the players that may be absent."""
    return np.array([player.index for player in players if player.removable], dtype=np.int64)


def siblings(
    log_weights: NDArray[np.float64], sizes: NDArray[np.int64], generations: int, rng: np.random.Generator
) -> NDArray[np.bool_]:
    """Draw families of sets that share prefixes; each set by itself has the distribution of a single draw.

    A set has probability proportional to the product of its members' weights among the sets of its size
    (conditional Poisson sampling; uniform if all weights are equal). Each generation doubles a family: every
    set gets a twin that agrees with it on the first half of the players (three quarters in the next
    generation, and so on) and redraws the rest at the same size. A product of weights is a product over the
    beginning times one over the rest. So given the beginning, the rest has the same distribution among sets
    of the remaining size, which is what the twin draws, and each sibling by itself is an exact draw. Averages
    over siblings are unbiased, but siblings are not independent. (Successive draws without replacement, as by
    Gumbel top-k, do not factor like this.)

    Args:
        log_weights: finite logarithms of the weights, in the order in which players run, shape (n,).
        sizes: size of each family's sets, each at most n, shape (n_families,).
        generations: a family has ``2**generations`` sets.
        rng: source of randomness.

    Returns:
        Members of each set, family by family, shape (n_families * 2**generations, n).
    """
    n = len(log_weights)
    totals = _log_totals(log_weights, int(sizes.max(initial=0)))
    sets: NDArray[np.bool_] = np.zeros((len(sizes), 1, n), dtype=np.bool_)
    for generation in range(generations + 1):
        cut = n - (n >> generation)
        twins = sets.copy()
        remaining = sizes[:, None] - twins[:, :, :cut].sum(axis=2)
        for player in range(cut, n):
            chance = _membership(log_weights, totals, player, remaining)
            twins[:, :, player] = rng.random(remaining.shape) < chance
            remaining -= twins[:, :, player]
        sets = np.concatenate([sets, twins], axis=1) if generation else twins
    return sets.reshape(-1, n)


def siblings_by_group(
    log_weights: NDArray[np.float64], sizes: NDArray[np.int64], generations: int, rng: np.random.Generator
) -> NDArray[np.bool_]:
    """As `siblings`, with a set of the same size in each of several groups: the experts of each layer.

    Groups are independent of each other given the size. A twin redraws the second half of the groups (the
    last quarter in the next generation, and so on, at least the last group) and keeps the others.

    Args:
        log_weights: logarithms of the weights, shape (n_groups, n); minus infinity fills up shorter groups.
        sizes: number of members in each group, for each family, shape (n_families,).
        generations: a family has ``2**generations`` sets.
        rng: source of randomness.

    Returns:
        Members of each set, family by family, shape (n_families * 2**generations, n_groups, n).
    """
    groups, n = log_weights.shape
    totals = _log_totals(log_weights, int(sizes.max(initial=0)))
    sets: NDArray[np.bool_] = np.zeros((len(sizes), 1, groups, n), dtype=np.bool_)
    for generation in range(generations + 1):
        redrawn = slice(groups - max(1, groups >> generation), groups)
        twins = sets.copy()
        remaining = np.broadcast_to(sizes[:, None, None], twins[:, :, redrawn, 0].shape).copy()
        for player in range(n):
            chance = _membership(
                log_weights[redrawn], totals[redrawn], player, remaining, (np.arange(remaining.shape[2]),)
            )
            twins[:, :, redrawn, player] = rng.random(remaining.shape) < chance
            remaining -= twins[:, :, redrawn, player]
        sets = np.concatenate([sets, twins], axis=1) if generation else twins
    return sets.reshape(-1, groups, n)


def _log_totals(log_weights: NDArray[np.float64], largest: int) -> NDArray[np.float64]:
    """Logarithms of elementary symmetric polynomials of the last weights.

    Returns:
        Entry (..., i, k): the total of all sets of k players from player i on, shape (..., n + 1,
        largest + 1).
    """
    *leading, n = log_weights.shape
    totals = np.full((*leading, n + 1, largest + 1), -np.inf)
    totals[..., 0] = 0.0
    for player in reversed(range(n)):
        without_it = totals[..., player + 1, 1:]
        with_it = totals[..., player + 1, :-1] + log_weights[..., player, None]
        totals[..., player, 1:] = np.logaddexp(without_it, with_it)
    return totals


def _membership(
    log_weights: NDArray[np.float64],
    totals: NDArray[np.float64],
    player: int,
    remaining: NDArray[np.int64],
    leading: tuple[NDArray[np.int64], ...] = (),
) -> NDArray[np.float64]:
    """The probability that a player is a member if ``remaining`` members are left to draw from it on.

    ``leading`` are the indices of ``remaining`` into the leading dimensions of weights and totals.
    """
    with_it = log_weights[..., player] + totals[(*leading, player + 1, remaining - 1)]
    chance: NDArray[np.float64] = np.exp(
        np.where(remaining > 0, with_it - totals[(*leading, player, remaining)], -np.inf)
    )
    return chance


class _Absences:
    """Draws coalitions that lack some removable players, equally many of each group.

    Args:
        players: the players.
        generations: see `siblings`.
        log_weights: logarithms of the weights of the removable players; None weighs all alike.
    """

    def __init__(
        self, players: Sequence[Player], generations: int, log_weights: NDArray[np.float64] | None = None
    ) -> None:
        self.groups = Groups.of(players)
        self.candidates = removable(players)
        self.generations = generations
        self._log_weights = np.zeros(len(self.candidates)) if log_weights is None else log_weights

    @property
    def most(self) -> int:
        """The largest number of absent players in each group."""
        return len(self.candidates) if len(self.groups) == 1 else self.groups.most

    def each(self, total: int) -> int:
        """How many of each group are absent if ``total`` players are, at most `most`, rounded."""
        return min(round(total / len(self.groups)), self.most)

    def families(self, count: int) -> int:
        """The number of families for ``count`` coalitions."""
        return -(-count >> self.generations)

    def lacking(self, sizes: NDArray[np.int64], rng: np.random.Generator) -> CoalitionMatrix:
        """Coalitions of families that lack these numbers of players of each group, (n, n_players)."""
        if len(self.groups) == 1:
            absent = siblings(self._log_weights, sizes, self.generations, rng)
            return self._without(absent, self.candidates)
        members = self.groups.members
        weights = np.full((len(members), max(map(len, members))), -np.inf)
        inside = np.array([np.arange(weights.shape[1]) < len(some) for some in members])
        order = np.concatenate(members)
        weights[inside] = self._log_weights[np.searchsorted(self.candidates, order)]
        drawn = siblings_by_group(weights, sizes, self.generations, rng)
        return self._without(drawn[:, inside], order)

    def _without(self, absent: NDArray[np.bool_], players: NDArray[np.int64]) -> CoalitionMatrix:
        coalitions = np.ones((len(absent), len(self.groups.labels)), dtype=np.bool_)
        coalitions[:, players] = ~absent
        return coalitions


class StratifiedSampler(Sampler):
    """Equal counts for each of a few coalition sizes, uniform within a size: the paper's sampling.

    Args:
        sizes: numbers of players present; None scales the paper's sizes to the number of players.
        generations: how often draws are doubled by siblings that share a prefix, see `siblings`; 0 makes
            all draws independent, as in the paper.
    """

    def __init__(self, sizes: Sequence[int] | None = None, generations: int = 2) -> None:
        self.sizes = sizes
        self.generations = generations

    @property
    def weighting(self) -> str:  # type: ignore[override]
        """The strata, and that they are not the Shapley weights."""
        sizes = "sizes scaled from the paper's" if self.sizes is None else f"sizes {list(self.sizes)}"
        return f"uniform over a few strata ({sizes}), uniform within; not the Shapley weights"

    def draw(self, players: Sequence[Player], count: int, rng: np.random.Generator) -> CoalitionMatrix:
        """Stratum by stratum in turn, so that any prefix is balanced.

        Raises:
            InputError: if no coalition has one of the sizes.
        """
        drawing, n = _Absences(players, self.generations), len(players)
        wanted = {(n - size) / len(drawing.groups) for size in self.present_sizes(n)}
        absences = sorted({round(absent) for absent in wanted if 0 < round(absent) <= drawing.most})
        if not absences:
            raise InputError(
                f"no coalition of {n} players, {len(drawing.candidates)} of them removable, has one of the "
                f"sizes {self.present_sizes(n)}; choose other sizes or another sampler"
            )
        return drawing.lacking(np.resize(absences, drawing.families(count)), rng)[:count]

    def present_sizes(self, n_players: int) -> list[int]:
        """The coalition sizes for this many players."""
        if self.sizes is not None:
            return list(self.sizes)
        return sorted({round(share * n_players) for share in REFERENCE_PRESENT_FRACTIONS}, reverse=True)


class ShapleySampler(Sampler):
    """Sizes uniform from empty to full, uniform within a size: the weights of the Shapley value.

    Args:
        generations: as for `StratifiedSampler`.
    """

    weighting = "uniform over coalition sizes, then uniform within a size: the Shapley weights"

    def __init__(self, generations: int = 2) -> None:
        self.generations = generations

    def draw(self, players: Sequence[Player], count: int, rng: np.random.Generator) -> CoalitionMatrix:
        """A uniform size, then a uniform coalition of that size."""
        drawing = _Absences(players, self.generations)
        sizes = rng.integers(drawing.most + 1, size=drawing.families(count))
        return drawing.lacking(sizes, rng)[:count]


class GuidedSampler(Sampler):
    """Coalitions near the target size that mostly lack harmless players.

    Among the coalitions of its size, one is drawn with probability proportional to ``exp(-total damage /
    temperature)``, the total being over its absent players, so fatal sets are rare.

    Args:
        damage: loss of value when each player alone is absent, shape (n_players,).
        largest: largest number of absent players; sizes lean towards it.
        temperature: None takes the median size of the damage.
        generations: as for `StratifiedSampler`.
    """

    def __init__(
        self,
        damage: NDArray[np.float64],
        largest: int,
        temperature: float | None = None,
        generations: int = 2,
    ) -> None:
        self.damage = damage
        self.largest = largest
        self.temperature = temperature
        self.generations = generations

    @property
    def weighting(self) -> str:  # type: ignore[override]
        """The coalitions that the draws favour."""
        return (
            f"coalitions lacking 2 to {self.largest} players, harmless ones preferred: "
            "a description of the neighbourhood of the target, not the Shapley weights"
        )

    def draw(self, players: Sequence[Player], count: int, rng: np.random.Generator) -> CoalitionMatrix:
        """Sizes from 2 to ``largest``, half of the families at the largest; members as `siblings`."""
        drawing = _Absences(players, self.generations, self._log_weights(removable(players)))
        largest = drawing.each(self.largest)
        fewest = min(2, largest) if len(drawing.groups) == 1 else 1
        sizes = rng.integers(fewest, max(fewest, largest) + 1, size=drawing.families(count))
        sizes[1::2] = max(fewest, largest)
        return drawing.lacking(sizes, rng)[:count]

    def _log_weights(self, candidates: NDArray[np.int64]) -> NDArray[np.float64]:
        damage = np.where(np.isfinite(self.damage), self.damage, np.inf)[candidates]
        finite = damage[np.isfinite(damage)]
        median = float(np.median(np.abs(finite))) if len(finite) else 1.0
        temperature = self.temperature or max(median, 1e-12)
        return np.clip(-damage / temperature, -_LARGEST_LOG_WEIGHT, _LARGEST_LOG_WEIGHT)


def not_among(coalitions: CoalitionMatrix, seen: set[bytes]) -> CoalitionMatrix:
    """The rows whose key is not in ``seen``."""
    return coalitions[[key not in seen for key in keys(coalitions)]]
