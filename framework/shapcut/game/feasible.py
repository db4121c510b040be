"""Finding sets of players that may be removed together where most sets may not."""

from collections.abc import Callable, Collection, Iterator, Sequence
from itertools import combinations
from math import comb

import numpy as np

from shapcut.support.errors import InputError

Permits = Callable[[Sequence[int]], bool]

_ENUMERABLE = 20_000
_QUESTIONS = 20_000


def permitted_sets(
    candidates: Collection[int], n_remove: int, permits: Permits, count: int, rng: np.random.Generator
) -> list[tuple[int, ...]]:
    """Different permitted sets of one size, in random order.

    Random sets are tried first, then all sets if they are few (so that one is found if there is one), then
    sets that are grown by a player, two players or a run of neighbours from smaller permitted ones.

    Args:
        candidates: players that may be absent.
        n_remove: the size.
        permits: whether a set may be removed.
        count: how many sets are wanted; fewer are returned if no more are found.
        rng: source of all randomness.
    """
    order = np.array(sorted(candidates), dtype=np.int64)
    if n_remove > len(order):
        return []
    found: dict[tuple[int, ...], None] = {}
    for _ in range(2 * count):
        drawn = tuple(sorted(rng.choice(order, size=n_remove, replace=False).tolist()))
        if drawn not in found and permits(drawn):
            found[drawn] = None
    if len(found) < count:
        few = comb(len(order), n_remove) <= _ENUMERABLE
        others = (
            _all_sets(order.tolist(), n_remove, rng)
            if few
            else _grown(order.tolist(), n_remove, permits, rng)
        )
        for other in others:
            if len(found) >= count:
                break
            if other not in found and permits(other):
                found[other] = None
    return list(found)[:count]


def require_permitted(
    candidates: Collection[int], n_remove: int, permits: Permits, rng: np.random.Generator
) -> None:
    """Check that a set of this size may be removed.

    Raises:
        InputError: if none was found; names sizes near it for which one was.
    """
    if permitted_sets(candidates, n_remove, permits, 1, rng):
        return
    near = [size for size in range(max(1, n_remove - 4), n_remove + 5) if size != n_remove]
    possible = [size for size in near if permitted_sets(candidates, size, permits, 1, rng)]
    advice = f"sets of {possible} players can" if possible else "nor of any number near it"
    raise InputError(f"no set of {n_remove} players was found that this model can lose; {advice}")


def _all_sets(players: Sequence[int], n_remove: int, rng: np.random.Generator) -> Iterator[tuple[int, ...]]:
    sets = list(combinations(players, n_remove))
    for index in rng.permutation(len(sets)).tolist():
        yield sets[index]


def _grown(
    players: Sequence[int], n_remove: int, permits: Permits, rng: np.random.Generator
) -> Iterator[tuple[int, ...]]:
    """Sets of the wanted size, depth first from the empty set by permitted steps."""
    waiting: list[tuple[int, ...]] = [()]
    asked = {()}
    while waiting and len(asked) < _QUESTIONS:
        current = waiting.pop()
        if len(current) == n_remove:
            yield current
            continue
        further = steps([player for player in players if player not in current], n_remove - len(current))
        for index in rng.permutation(len(further)).tolist():
            larger = tuple(sorted((*current, *further[index])))
            if larger not in asked:
                asked.add(larger)
                if permits(larger):
                    waiting.append(larger)


def steps(present: Sequence[int], most: int) -> list[tuple[int, ...]]:
    """Single players, pairs, and runs of players that are neighbours among those present."""
    runs = [
        tuple(present[start : start + length])
        for length in range(1, most + 1)
        for start in range(len(present) - length + 1)
    ]
    return runs + [pair for pair in combinations(present, 2) if most > 1]
