"""Evolutionary search: mutate the removed set, and measure the offspring on more and more text."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from pydantic import BeforeValidator

from shapcut.estimators.sampling import removable
from shapcut.game.budget import BudgetedGame
from shapcut.game.coalitions import Player, without
from shapcut.game.contributions import Contributions
from shapcut.game.feasible import Permits, permitted_sets
from shapcut.game.game import Game
from shapcut.game.plan import RemovalPlan
from shapcut.selection.base import Selector, permission, require_removable
from shapcut.support.errors import BudgetExceededError, InputError

MOST_SWITCHES = 3
_ATTEMPTS = 50
_FIRST_SHARE = 8

Removed = tuple[int, ...]


def _numbers(text: object) -> object:
    """``4/1`` as a tuple."""
    return tuple(text.split("/")) if isinstance(text, str) else text


Counts = Annotated[tuple[int, ...], BeforeValidator(_numbers)]
"""One number for each stage of a selection; on a command line ``4/1``."""


class EvolutionarySelector(Selector):
    """Level-switch mutation of one parent; survivors are selected on successively more tokens.

    Source: EvoPress, Sieberling et al., arXiv 2410.14649, sections 3 and 4.1. The published sizes are
    ``offspring=32,initial=64,survivors=2/1,tokens=2048/32768`` and ``k (n - k) / 1.5`` generations for k of n
    players, with the utility ``kl``. There each stage draws new windows; here a stage reads the first windows
    of the calibration text, so that a set's value stays the same. The search ends early when the budget is
    spent; the whole model's pass, which a divergence needs, is part of it.

    Args:
        generations: most generations; None: the published number.
        offspring: mutated sets a generation.
        initial: random sets, of which the best become the first parents.
        survivors: how many each stage leaves; the last number is the size of the population.
        tokens: on how many tokens each stage measures; None: all of them at the last stage, an eighth before.
    """

    name = "evolutionary"

    def __init__(
        self,
        generations: int | None = None,
        offspring: int = 16,
        initial: int = 32,
        survivors: Counts = (4, 1),
        tokens: Counts | None = None,
    ) -> None:
        sizes = {"offspring": offspring, "initial": initial, "survivors": min(survivors, default=0)}
        if wrong := [f"{name}={size}" for name, size in sizes.items() if size < 1]:
            raise ValueError(f"{wrong[0]}: at least 1 is needed")
        if tokens is not None and (len(tokens) != len(survivors) or min(tokens) < 1):
            raise ValueError(f"tokens={tokens} needs one positive number for each of survivors={survivors}")
        self.generations = generations
        self.offspring = offspring
        self.initial = initial
        self.survivors = survivors
        self.tokens = tokens

    def select(
        self,
        contributions: Contributions,
        players: Sequence[Player],
        n_remove: int,
        *,
        game: Game | None = None,
        budget: int = 0,
        finals: Sequence[Game] = (),  # noqa: ARG002 - the last stage decides
        rng: np.random.Generator,
    ) -> RemovalPlan:
        """See `Selector.select`.

        Raises:
            InputError: if there is no game, no permitted set, or too small a budget for the first generation.
        """
        require_removable(players, n_remove)
        if game is None:
            raise InputError(f"selector {self.name!r} measures sets: it needs a game")
        counted = BudgetedGame(game, budget)
        candidates = removable(players).tolist()
        evolution = _Evolution(self._stages(counted), candidates, permission(players, game), rng)
        wanted = n_remove * (len(candidates) - n_remove) / 1.5
        most = max(1, round(wanted)) if self.generations is None else self.generations
        try:
            population = evolution.begin(n_remove, self.initial, self.survivors[-1])
        except BudgetExceededError as error:
            raise InputError(
                f"selector {self.name!r}: the first {self.initial} sets exceed the budget ({error}); "
                "raise --budget or lower its option initial"
            ) from error
        done = 0
        try:
            while done < most:
                population = evolution.next_generation(population, self.offspring)
                done += 1
        except BudgetExceededError:
            pass  # the parents of the generation that could not be measured are the result
        row = without(len(players), [population[0]])
        measured = float(counted.values(row)[0]) if counted.is_known(row)[0] else None
        return RemovalPlan.removing(
            population[0],
            len(players),
            measured_value=measured if measured is not None and np.isfinite(measured) else None,
            full_value=contributions.full_value,
            method=self.name,
            reason=f"the best set after {done} generations of {self.offspring}",
        )

    def _stages(self, game: BudgetedGame) -> list["_Stage"]:
        first = max(1, game.tokens // _FIRST_SHARE)
        tokens = self.tokens or (*[first] * (len(self.survivors) - 1), max(1, game.tokens))
        return [_Stage(game.narrowed(size), left) for size, left in zip(tokens, self.survivors, strict=True)]


@dataclass(frozen=True, slots=True)
class _Stage:
    """A game and how many of those that are measured in it are left."""

    game: Game
    survivors: int

    def best(self, sets: Sequence[Removed], survivors: int) -> list[Removed]:
        """Best first; a set without a finite value comes last, equals stay in their order."""
        values = np.nan_to_num(self.game.values(without(self.game.n_players, sets)), nan=-np.inf)
        return [sets[row] for row in np.argsort(-values, kind="stable")[:survivors].tolist()]


@dataclass(frozen=True, slots=True)
class _Evolution:
    """What stays the same over the generations."""

    stages: list[_Stage]
    candidates: list[int]
    permits: Permits
    rng: np.random.Generator

    def begin(self, n_remove: int, initial: int, population: int) -> list[Removed]:
        """The best of some random sets, measured as in the first stage."""
        for stage in self.stages:
            stage.game.values(np.ones((1, stage.game.n_players), dtype=np.bool_))
        sets = permitted_sets(self.candidates, n_remove, self.permits, initial, self.rng)
        if not sets:
            raise InputError(f"no permitted set of {n_remove} players was found")
        return self.stages[0].best(sets, population)

    def next_generation(self, population: list[Removed], offspring: int) -> list[Removed]:
        """The parents, or what is better than they are."""
        sets = self._offspring(population, offspring)
        for stage in self.stages[:-1]:
            sets = stage.best(sets, stage.survivors) if sets else sets
        last = self.stages[-1]
        return last.best([*population, *sets], last.survivors)

    def _offspring(self, population: list[Removed], count: int) -> list[Removed]:
        """Different permitted mutations; fewer if there are hardly any."""
        found: dict[Removed, None] = {}
        for _ in range(_ATTEMPTS * count):
            if len(found) == count:
                break
            mutant = self._mutated(population[int(self.rng.integers(len(population)))])
            if mutant not in population and self.permits(mutant):
                found[mutant] = None
        return list(found)

    def _mutated(self, parent: Removed) -> Removed:
        """One to three times a removed player and one that stays change places; one is the most likely."""
        removed = set(parent)
        for _ in range(int(self.rng.integers(1, MOST_SWITCHES + 1, size=2).min())):
            staying = [player for player in self.candidates if player not in removed]
            if not staying:
                break
            removed.remove(int(self.rng.choice(sorted(removed))))
            removed.add(int(self.rng.choice(staying)))
        return tuple(sorted(removed))
