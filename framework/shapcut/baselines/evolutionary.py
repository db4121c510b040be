"""Evolutionary search: mutate the removed set and measure the offspring on more and more text."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from pydantic import BeforeValidator

from shapcut.game.budget import BudgetedGame
from shapcut.game.coalitions import finite_or_none, without
from shapcut.game.feasible import Permits, permitted_sets
from shapcut.game.game import Game
from shapcut.game.groups import Groups
from shapcut.game.plan import RemovalPlan
from shapcut.selection.base import SelectionProblem, Selector
from shapcut.support.errors import BudgetExceededError, InputError

MOST_SWITCHES = 3
_ATTEMPTS = 50
_FIRST_SHARE = 8

Removed = tuple[int, ...]


def _numbers(text: object) -> object:
    """``4/1`` as a tuple."""
    return tuple(text.split("/")) if isinstance(text, str) else text


Counts = Annotated[tuple[int, ...], BeforeValidator(_numbers)]
"""One number for each selection stage; on a command line ``4/1``."""


class EvolutionarySelector(Selector):
    """Level-switch mutation of one parent; survivors are selected on successively more tokens.

    Source: EvoPress, Sieberling et al., arXiv 2410.14649, sections 3 and 4.1. The published sizes are
    ``offspring=32,initial=64,survivors=2/1,tokens=2048/32768`` and ``k (n - k) / 1.5`` generations for k of n
    players, with the utility ``kl``. The paper draws new windows for each stage; here a stage reads the first
    windows of the calibration text, so that a set's value never changes. The search ends early when the
    budget is spent; the budget includes the whole model's pass, which a divergence needs.

    Args:
        generations: maximum number of generations; None for the published number.
        offspring: mutated sets per generation.
        initial: random sets whose best become the first parents.
        survivors: sets that each stage keeps; the last number is the population size.
        tokens: tokens that each stage measures on; None for all at the last stage and an eighth before.
    """

    name = "evolutionary"
    handles_groups = True

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
            raise ValueError(f"{wrong[0]} must be at least 1")
        if tokens is not None and (len(tokens) != len(survivors) or min(tokens) < 1):
            raise ValueError(f"tokens={tokens} needs one positive number for each of survivors={survivors}")
        self.generations = generations
        self.offspring = offspring
        self.initial = initial
        self.survivors = survivors
        self.tokens = tokens

    def select(self, problem: SelectionProblem) -> RemovalPlan:
        """See `Selector.select`.

        Raises:
            InputError: if there is no game or no permitted set, or the budget is too small for a generation.
        """
        counted = BudgetedGame(problem.require_game(self.name), problem.budget)
        candidates, n_remove = problem.candidates.tolist(), problem.n_remove
        evolution = _Evolution(
            self._stages(counted), candidates, problem.permits, problem.rng, problem.groups
        )
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
            pass  # the last measured generation is the result
        row = without(problem.n_players, [population[0]])
        return problem.plan(
            population[0],
            measured_value=finite_or_none(counted.values(row)[0]) if counted.is_known(row)[0] else None,
            method=self.name,
            reason=f"the best set after {done} generations of {self.offspring}",
        )

    def _stages(self, game: BudgetedGame) -> list["_Stage"]:
        first = max(1, game.tokens // _FIRST_SHARE)
        tokens = self.tokens or (*[first] * (len(self.survivors) - 1), max(1, game.tokens))
        return [_Stage(game.narrowed(size), left) for size, left in zip(tokens, self.survivors, strict=True)]


@dataclass(frozen=True, slots=True)
class _Stage:
    """A game and the number of sets that survive it."""

    game: Game
    survivors: int

    def best(self, sets: Sequence[Removed], survivors: int) -> list[Removed]:
        """Best first; sets without a finite value last, equals in their order."""
        values = np.nan_to_num(self.game.values(without(self.game.n_players, sets)), nan=-np.inf)
        return [sets[row] for row in np.argsort(-values, kind="stable")[:survivors].tolist()]


@dataclass(frozen=True, slots=True)
class _Evolution:
    """Generations of sets of one size."""

    stages: list[_Stage]
    candidates: list[int]
    permits: Permits
    rng: np.random.Generator
    groups: Groups

    def begin(self, n_remove: int, initial: int, population: int) -> list[Removed]:
        """The best of some random sets, measured in the first stage."""
        for stage in self.stages:
            stage.game.values(np.ones((1, stage.game.n_players), dtype=np.bool_))
        sets = permitted_sets(self.candidates, n_remove, self.permits, initial, self.rng, groups=self.groups)
        if not sets:
            raise InputError(f"no permitted set of {n_remove} players was found")
        return self.stages[0].best(sets, population)

    def next_generation(self, population: list[Removed], offspring: int) -> list[Removed]:
        """The best of the parents and the surviving offspring."""
        sets = self._offspring(population, offspring)
        for stage in self.stages[:-1]:
            sets = stage.best(sets, stage.survivors) if sets else sets
        last = self.stages[-1]
        return last.best([*population, *sets], last.survivors)

    def _offspring(self, population: list[Removed], count: int) -> list[Removed]:
        """Distinct permitted mutations; fewer than ``count`` if they are rare."""
        found: dict[Removed, None] = {}
        for _ in range(_ATTEMPTS * count):
            if len(found) == count:
                break
            mutant = self._mutated(population[int(self.rng.integers(len(population)))])
            if mutant not in population and self.permits(mutant):
                found[mutant] = None
        return list(found)

    def _mutated(self, parent: Removed) -> Removed:
        """Swap a removed player for a present one of its group, one to three times, most often once."""
        removed, labels = set(parent), self.groups.labels
        for _ in range(int(self.rng.integers(1, MOST_SWITCHES + 1, size=2).min())):
            if len(removed) == len(self.candidates):
                break
            back = int(self.rng.choice(sorted(removed)))
            staying = [
                player
                for player in self.candidates
                if player not in removed and labels[player] == labels[back]
            ]
            if not staying:
                continue
            removed.remove(back)
            removed.add(int(self.rng.choice(staying)))
        return tuple(sorted(removed))
