"""Samplers: which coalitions to measure."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from shapcut.game.coalitions import CoalitionMatrix, Player, distinct, keys, without
from shapcut.support.errors import InputError

REFERENCE_PRESENT_FRACTIONS = (30 / 32, 27 / 32, 24 / 32, 21 / 32, 18 / 32)
"""Coalition sizes of the paper for 32 layers, as shares of the depth (arXiv 2602.07804)."""

_ATTEMPTS = 50


class Sampler(ABC):
    """Draws coalitions of removable players; players that are not removable are always present."""

    weighting: str
    """How an average over samples weighs coalitions, in words for the user."""

    @abstractmethod
    def draw(self, players: Sequence[Player], count: int, rng: np.random.Generator) -> CoalitionMatrix:
        """``count`` coalitions, repeats possible, shape (count, n_players)."""

    def sample(self, players: Sequence[Player], budget: int, rng: np.random.Generator) -> CoalitionMatrix:
        """Up to ``budget`` distinct coalitions; fewer if no more are found."""
        found: CoalitionMatrix = np.empty((0, len(players)), dtype=np.bool_)
        for _ in range(_ATTEMPTS):
            if len(found) >= budget:
                break
            found = distinct(np.vstack([found, self.draw(players, budget, rng)]))
        return found[:budget]


def removable(players: Sequence[Player]) -> NDArray[np.int64]:
    """Indices of the players that may be absent."""
    return np.array([player.index for player in players if player.removable], dtype=np.int64)


def siblings(
    candidates: NDArray[np.int64], absent: int, generations: int, rng: np.random.Generator
) -> list[NDArray[np.int64]]:
    """Draw sets of absent players that share prefixes, each uniform among the sets of its size.

    The first set is drawn uniformly. Each generation doubles the number of sets: every set gets a twin that
    agrees with it on the first half of the players (three quarters in the next generation, and so on) and
    redraws the rest uniformly at the same size. Given the beginning of a uniform set, its rest is uniform,
    so each sibling is uniform by itself. Averages over siblings are unbiased, but siblings are not
    independent.

    Args:
        candidates: players that may be absent, in the order in which they run.
        absent: size of each set.
        generations: the number of sets is ``2**generations``.
        rng: source of randomness.
    """
    sets = [np.sort(rng.choice(len(candidates), size=absent, replace=False))]
    for generation in range(1, generations + 1):
        cut = len(candidates) - (len(candidates) >> generation)
        for existing in list(sets):
            begin = existing[existing < cut]
            rest = rng.choice(np.arange(cut, len(candidates)), size=absent - len(begin), replace=False)
            sets.append(np.concatenate([begin, rest]))
    return [candidates[positions] for positions in sets]


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
        candidates, n = removable(players), len(players)
        absences = sorted({n - size for size in self.present_sizes(n)})
        absences = [absent for absent in absences if 0 < absent <= len(candidates)]
        if not absences:
            raise InputError(
                f"no coalition of {n} players, {len(candidates)} of them removable, has one of the sizes "
                f"{self.present_sizes(n)}; choose other sizes or another sampler"
            )
        families = (
            siblings(candidates, absences[family % len(absences)], self.generations, rng)
            for family in range(-(-count >> self.generations))
        )
        return without(n, chain.from_iterable(families))[:count]

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
        candidates = removable(players)
        families = (
            siblings(candidates, int(rng.integers(len(candidates) + 1)), self.generations, rng)
            for _ in range(-(-count >> self.generations))
        )
        return without(len(players), chain.from_iterable(families))[:count]


class GuidedSampler(Sampler):
    """Coalitions near the target size that mostly lack harmless players.

    Absent players are drawn without replacement with probability proportional to ``exp(-damage /
    temperature)`` (Gumbel top-k), so fatal sets are rare.

    Args:
        damage: loss of value when each player alone is absent, shape (n_players,).
        largest: largest number of absent players; sizes lean towards it.
        temperature: None takes the median size of the damage.
    """

    def __init__(self, damage: NDArray[np.float64], largest: int, temperature: float | None = None) -> None:
        self.damage = damage
        self.largest = largest
        self.temperature = temperature

    @property
    def weighting(self) -> str:  # type: ignore[override]
        """The coalitions that the draws favour."""
        return (
            f"coalitions lacking 2 to {self.largest} players, harmless ones preferred: "
            "a description of the neighbourhood of the target, not the Shapley weights"
        )

    def draw(self, players: Sequence[Player], count: int, rng: np.random.Generator) -> CoalitionMatrix:
        """Sizes from 2 to ``largest``, half of them the largest; members by Gumbel top-k."""
        candidates = removable(players)
        largest = min(self.largest, len(candidates))
        damage = np.where(np.isfinite(self.damage), self.damage, np.inf)[candidates]
        finite = damage[np.isfinite(damage)]
        median = float(np.median(np.abs(finite))) if len(finite) else 1.0
        temperature = self.temperature or max(median, 1e-12)
        scores = -np.minimum(damage / temperature, 1e6)
        coalitions = np.ones((count, len(players)), dtype=np.bool_)
        for row in range(count):
            size = largest if row % 2 else int(rng.integers(min(2, largest), largest + 1))
            order = np.argsort(-(scores + rng.gumbel(size=len(scores))))
            coalitions[row, candidates[order[:size]]] = False
        return coalitions


def not_among(coalitions: CoalitionMatrix, seen: set[bytes]) -> CoalitionMatrix:
    """The rows whose key is not in ``seen``."""
    return coalitions[[key not in seen for key in keys(coalitions)]]
