"""What siblings save and cost in the default way: block runs, fidelity and chosen sets, by generations.

    python benchmarks/siblings.py                  # all parts, some minutes
    python benchmarks/siblings.py runs fidelity    # these parts again, the others stay

*Runs* are block runs per coalition of the guided draws for 8 of 32 blocks, 250 coalitions, counted by the
real evaluator. *Fidelity* is the surrogate's correlation with the values of independent draws at the target
size. *Plans* is how much lower the value of the chosen set is than that of the best one, in nats. The last
two compare draws at the same number of coalitions as independent ones, and at the same number of block runs.
Games are the enumerated ones of the zoo (12 blocks, 4 removed) and synthetic ones: effects of players, pairs
and triples, seen through a saturating function.
"""

import argparse
import platform
from collections.abc import Callable
from functools import cache
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr

from block_runs import RunCounter
from games import enumerated, names
from shapcut.estimators.base import EstimationProblem
from shapcut.estimators.quadratic import QuadraticSurrogate
from shapcut.estimators.sampling import GuidedSampler
from shapcut.estimators.surrogate import SurrogateEstimator
from shapcut.game.budget import BudgetedGame
from shapcut.game.coalitions import CoalitionMatrix, Values, distinct, without
from shapcut.game.game import FunctionGame, Game
from shapcut.selection.base import SelectionProblem
from shapcut.selection.search import SearchSelector
from shapcut.support.files import write_json_atomically
from shapcut.support.plain_json import read_json

RESULT = Path(__file__).parent / "results" / "siblings.json"
GENERATIONS, SEEDS = (0, 1, 2, 3), range(8)
PLAN_GENERATIONS, PLAN_SEEDS = (0, 2, 3), range(12)
PLAYERS, REMOVE, BUDGET = 32, 8, 250
ZOO_REMOVE, ZOO_BUDGET, ZOO_PLAN_BUDGET = 4, 75, 40
FEWER, FEWER_REMOVE, FEWER_BUDGET = 20, 5, 150
"""A synthetic game whose sets of that size can be enumerated."""
NOISE, TESTED = 0.01, 500


@cache
def synthetic(seed: int, n: int = PLAYERS) -> FunctionGame:
    """A game that no polynomial of degree two expresses; the first and the last player are dear."""
    rng = np.random.default_rng(seed)
    single = rng.gamma(1.0, 0.1, n)
    single[[0, -1]] = 6.0, 2.0
    distance = np.abs(np.subtract.outer(np.arange(n), np.arange(n)))
    pairs = np.triu(
        rng.normal(0.0, 0.03, (n, n)) + 0.05 * np.exp(-distance / 3) * rng.gamma(1.0, 1.0, (n, n)), 1
    )
    triples = [(rng.choice(n, 3, replace=False), rng.normal(0.0, 0.15)) for _ in range(4 * n)]

    def values(coalitions: CoalitionMatrix) -> Values:
        absent = (~coalitions).astype(np.float64)
        damage = absent @ single + ((absent @ pairs) * absent).sum(axis=1)
        damage += sum(weight * absent[:, members].prod(axis=1) for members, weight in triples)
        found: Values = -6.0 * np.log1p(np.maximum(damage, -0.9) / 6.0)
        return found

    return FunctionGame(n, values)


def game_of(name: str, seed: int, n: int = PLAYERS) -> FunctionGame:
    """The synthetic game of this seed, or an enumerated one."""
    return synthetic(seed, n) if name == "synthetic" else enumerated(name)


def singles(n: int) -> CoalitionMatrix:
    """All players, then each one absent."""
    return without(n, [(), *([player] for player in range(n))])


def damage(game: Game) -> NDArray[np.float64]:
    """Loss of value when each player alone is absent."""
    values = game.values(singles(game.n_players))
    return values[0] - values[1:]


def drawn(game: Game, remove: int, generations: int, count: int, seed: int) -> CoalitionMatrix:
    """Guided draws as the default estimator makes them."""
    sampler = GuidedSampler(damage(game), remove + 1, generations=generations)
    return sampler.sample(game.players, count, np.random.default_rng(seed))


def runs_after_singles(coalitions: CoalitionMatrix) -> int:
    """Block runs of coalitions that are measured in one call after the single absences."""
    counter = RunCounter(coalitions.shape[1])
    counter.runs(singles(coalitions.shape[1]))
    return int(counter.runs(coalitions))


def within(coalitions: CoalitionMatrix, limit: int) -> int:
    """How many of the first coalitions take at most that many block runs."""
    low, high = 1, len(coalitions) + 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if runs_after_singles(coalitions[:middle]) <= limit else (low, middle)
    return low


def runs() -> list[dict[str, Any]]:
    """Block runs per coalition, repeats among draws, and how many have the largest size."""
    rows = []
    for generations in GENERATIONS:
        found = []
        for seed in SEEDS:
            game = synthetic(seed)
            some = drawn(game, REMOVE, generations, BUDGET, seed)
            sampler = GuidedSampler(damage(game), REMOVE + 1, generations=generations)
            raw = sampler.draw(game.players, BUDGET, np.random.default_rng(seed))
            largest = (~some).sum(axis=1) == REMOVE + 1
            found.append(
                (
                    runs_after_singles(some) / BUDGET,
                    some.sum() / BUDGET,
                    len(distinct(raw)) / BUDGET,
                    largest.mean(),
                )
            )
        columns = ("block runs", "blocks present", "distinct among draws", "at the largest size")
        rows.append(
            {"generations": generations, **dict(zip(columns, np.mean(found, axis=0).round(4), strict=True))}
        )
    return rows


def fidelity() -> list[dict[str, Any]]:
    """Correlations with unseen values, by game, generations and what is held equal."""
    cases: list[tuple[str, int, int]] = [("synthetic", REMOVE, BUDGET)]
    cases += [(name, ZOO_REMOVE, ZOO_BUDGET) for name in names()]
    rows = []
    for name, remove, budget in cases:
        found: dict[tuple[int, str], list[tuple[float, ...]]] = {}
        for seed in SEEDS:
            for key, scores in correlations(game_of(name, seed), remove, budget, seed).items():
                found.setdefault(key, []).append(scores)
        rows += [
            summary(name, key, scores, ("coalitions", "Pearson", "Spearman")) for key, scores in found.items()
        ]
        print(*rows[-2 * len(GENERATIONS) :], sep="\n", flush=True)
    return rows


def correlations(game: Game, remove: int, budget: int, seed: int) -> dict[tuple[int, str], tuple[float, ...]]:
    """For each number of generations, at equal coalitions and at equal block runs."""
    alone = singles(game.n_players)
    count = budget // 2 - len(alone)
    sampler = GuidedSampler(damage(game), remove, generations=0)
    test = sampler.draw(game.players, 4 * TESTED, np.random.default_rng(1000 + seed))
    test = distinct(test[(~test).sum(axis=1) == remove])[:TESTED]
    truth = game.values(test)
    limit, found = 0, {}
    for generations in GENERATIONS:
        many = drawn(game, remove, generations, 4 * count, seed)
        limit = limit or runs_after_singles(many[:count])
        for equal, number in (("coalitions", count), ("block runs", within(many, limit))):
            measured = np.vstack([alone, many[:number]])
            values = game.values(measured) + np.random.default_rng(seed).normal(0.0, NOISE, len(measured))
            predicted = QuadraticSurrogate().fit(measured, values).predict(test)
            pearson = float(np.corrcoef(predicted, truth)[0, 1])
            found[generations, equal] = (number, pearson, float(spearmanr(predicted, truth)[0]))
    return found


def plans() -> list[dict[str, Any]]:
    """The whole default way: regret, by game, generations and what is held equal."""
    cases: list[tuple[str, int, int]] = [(name, ZOO_REMOVE, ZOO_PLAN_BUDGET) for name in names()]
    cases += [("synthetic", FEWER_REMOVE, FEWER_BUDGET)]
    rows = []
    for name, remove, budget in cases:
        budgets, limit = {"coalitions": budget}, 0.0
        for generations in PLAN_GENERATIONS:
            for equal in ("coalitions", "block runs")[: 1 if generations == 0 else 2]:
                found = [chosen(name, remove, budgets[equal], generations, seed) for seed in PLAN_SEEDS]
                mean_runs = float(np.mean([row[2] for row in found]))
                limit = limit or mean_runs
                budgets["block runs"] = round(budget * limit / mean_runs)
                rows.append(
                    summary(name, (generations, equal), found, ("regret", "coalitions", "block runs"))
                )
                print(rows[-1], flush=True)
    return rows


@cache
def best(name: str, remove: int, seed: int) -> float:
    """The value of the best set of that size."""
    game = game_of(name, seed, FEWER)
    sets = without(game.n_players, combinations(range(game.n_players), remove))
    return float(game.values(sets).max())


def chosen(name: str, remove: int, budget: int, generations: int, seed: int) -> tuple[float, ...]:
    """How far the chosen set is from the best one, and the coalitions and block runs spent on it."""
    game = game_of(name, seed, FEWER)
    counter, total = RunCounter(game.n_players), []

    def values(coalitions: CoalitionMatrix) -> Values:
        total.append(counter.runs(coalitions))  # in the order in which a run measures them
        return game.values(coalitions)

    counted = BudgetedGame(FunctionGame(game.n_players, values), budget)
    rng = np.random.default_rng(seed)
    sampler = GuidedSampler(damage(game), remove + 1, generations=generations)
    contributions = SurrogateEstimator(sampler=sampler).estimate(
        EstimationProblem(counted, budget, rng, remove)
    )
    problem = SelectionProblem(
        contributions, game.players, remove, game=counted, budget=counted.remaining, rng=rng
    )
    plan = SearchSelector().select(problem)
    value = float(game.values(without(game.n_players, [plan.removed]))[0])
    optimum = best(name, remove, seed)
    return optimum - value, counted.spent, sum(total)


def summary(
    name: str, key: tuple[int, str], scores: list[tuple[float, ...]], columns: tuple[str, ...]
) -> dict[str, Any]:
    """Means over seeds, with the standard error of the last column but those that count."""
    means = np.mean(scores, axis=0).round(5)
    errors = (np.std(scores, axis=0, ddof=1) / len(scores) ** 0.5).round(5)
    return {
        "game": name,
        "generations": key[0],
        "equal": key[1],
        **dict(zip(columns, means.tolist(), strict=True)),
        "standard errors": dict(zip(columns, errors.tolist(), strict=True)),
    }


PARTS: dict[str, Callable[[], list[dict[str, Any]]]] = {"runs": runs, "fidelity": fidelity, "plans": plans}


def main() -> None:
    """Run the parts that the command line names, or all, and write the result after each."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []])
    for part in parser.parse_args().parts or list(PARTS):
        content = read_json(RESULT) if RESULT.exists() else {}
        about = {
            "command": "python benchmarks/siblings.py",
            "hardware": f"1 thread, {platform.machine()}; figures do not depend on it",
            "seeds": {"runs": len(SEEDS), "fidelity": len(SEEDS), "plans": len(PLAN_SEEDS)},
        }
        write_json_atomically(RESULT, content | about | {part: PARTS[part]()})


if __name__ == "__main__":
    main()
