"""Search for sets of players that may be removed together, where few sets may."""

from collections.abc import Callable, Collection, Iterator, Sequence
from itertools import chain, combinations, product
from math import comb, prod

import numpy as np

from shapcut.game.groups import Groups
from shapcut.support.errors import InputError

Permits = Callable[[Sequence[int]], bool]

_ENUMERABLE = 20_000
_QUESTIONS = 20_000
_MORE_DRAWS = 256


def permitted_sets(
    candidates: Collection[int],
    n_remove: int,
    permits: Permits,
    count: int,
    rng: np.random.Generator,
    *,
    groups: Groups | None = None,
) -> list[tuple[int, ...]]:
    """Find distinct permitted sets of one size, in random order.

    Tries random sets first. Then, if there are few sets, it tries them all, which finds one if one exists;
    otherwise it grows smaller permitted sets by one player, two players or a run of neighbours. Sets with
    equally many of several groups do not grow so; more random ones are tried.

    Args:
        candidates: players that may be absent.
        n_remove: number of players in each set.
        permits: whether a set may be removed.
        count: maximum number of sets.
        rng: source of all randomness.
        groups: the groups of the candidates, of which each set has equally many; None for no groups.
    """
    if groups is not None and len(groups) > 1:
        return _permitted_by_group(groups, n_remove, permits, count, rng)
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


def _permitted_by_group(
    groups: Groups, n_remove: int, permits: Permits, count: int, rng: np.random.Generator
) -> list[tuple[int, ...]]:
    """As `permitted_sets`, with equally many players of each group."""
    each, uneven = divmod(n_remove, len(groups))
    if uneven or any(each > len(some) for some in groups.members):
        return []
    few = prod(comb(len(some), each) for some in groups.members) <= _ENUMERABLE
    drawn = (tuple(sorted(groups.draw(n_remove, rng))) for _ in range(2 * count + _MORE_DRAWS * (not few)))
    tried = chain(drawn, _all_by_group(groups, each, rng)) if few else drawn
    found: dict[tuple[int, ...], None] = {}
    for one in tried:
        if one not in found and permits(one):
            found[one] = None
        if len(found) >= count:
            break
    return list(found)


def _all_by_group(groups: Groups, each: int, rng: np.random.Generator) -> Iterator[tuple[int, ...]]:
    sets = list(product(*(combinations(some.tolist(), each) for some in groups.members)))
    for index in rng.permutation(len(sets)).tolist():
        yield tuple(sorted(chain.from_iterable(sets[index])))


def require_permitted(
    candidates: Collection[int],
    n_remove: int,
    permits: Permits,
    rng: np.random.Generator,
    *,
    groups: Groups | None = None,
) -> None:
    """Check that a set of this size may be removed.

    Raises:
        InputError: if none is found; the message lists nearby sizes for which one is.
    """
    if permitted_sets(candidates, n_remove, permits, 1, rng, groups=groups):
        return
    step = 1 if groups is None else len(groups)
    near = [n_remove + step * more for more in range(-4, 5) if more and n_remove + step * more > 0]
    possible = [size for size in near if permitted_sets(candidates, size, permits, 1, rng, groups=groups)]
    advice = f"try one of the sizes {possible}" if possible else "no nearby size has one either"
    raise InputError(f"found no set of {n_remove} players that can be removed from this model; {advice}")


def _all_sets(players: Sequence[int], n_remove: int, rng: np.random.Generator) -> Iterator[tuple[int, ...]]:
    sets = list(combinations(players, n_remove))
    for index in rng.permutation(len(sets)).tolist():
        yield sets[index]


def _grown(
    players: Sequence[int], n_remove: int, permits: Permits, rng: np.random.Generator
) -> Iterator[tuple[int, ...]]:
    """Sets of size ``n_remove``, grown depth first from the empty set through permitted sets."""
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
    """Single players, pairs, and runs of up to ``most`` neighbours among the players present."""
    runs = [
        tuple(present[start : start + length])
        for length in range(1, most + 1)
        for start in range(len(present) - length + 1)
    ]
    return runs + [pair for pair in combinations(present, 2) if most > 1]
