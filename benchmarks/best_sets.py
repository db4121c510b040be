"""How near chosen sets come to the best set there is, on the enumerated games of the zoo.

    python benchmarks/games.py && python benchmarks/best_sets.py
    python benchmarks/best_sets.py rwkv7     # this game again, the others stay

A cell is a game, a number of removed blocks (1 to 11 of 12) and a seed. The gap is how much lower the chosen
set's value (mean log-likelihood, nats) is than the best set's, as a share of the latter.
"""

import argparse
import json
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from games import enumerated, names
from shapcut.comparison.contestants import Contestant, parse_methods
from shapcut.estimators.base import EstimationProblem
from shapcut.game.budget import BudgetedGame
from shapcut.game.coalitions import Values, all_coalitions, without
from shapcut.game.game import Game
from shapcut.host.host import build_host
from shapcut.selection.base import SelectionProblem
from shapcut.support.files import write_json_atomically

RESULT = Path(__file__).parent / "results" / "best_sets.json"
METHODS = "ours@300,ours@150,ours@75,greedy,evolutionary@300,shapley@300,leave-one-out,exact+ranking@4096"
SEEDS = range(3)
NEAR = 0.01


def best_values(game: Game) -> Values:
    """The best value of all sets at each number of removed players, shape (n_players + 1,)."""
    coalitions = all_coalitions(game.n_players)
    removed, values = (~coalitions).sum(axis=1), game.values(coalitions)
    return np.array([values[removed == number].max() for number in range(game.n_players + 1)])


def chosen(contestant: Contestant, game: Game, n_remove: int, seed: int) -> tuple[float, int]:
    """The value of the set that a method chooses, and the coalitions that it measured."""
    host, method, rng = build_host(), contestant.method, np.random.default_rng(seed)
    budget = contestant.evaluations(game.n_players, n_remove, 300)
    counted = BudgetedGame(game, budget)
    estimator = host.estimators.create(method.estimator)
    contributions = estimator.estimate(EstimationProblem(counted, budget, rng, n_remove=n_remove))
    plan = host.selectors.create(method.selector).select(
        SelectionProblem(
            contributions, game.players, n_remove, game=counted, budget=counted.remaining, rng=rng
        )
    )
    return float(game.values(without(game.n_players, [plan.removed]))[0]), budget - counted.remaining


def rows(name: str) -> list[dict[str, Any]]:
    """Every method's cells of one game."""
    game = enumerated(name)
    best = best_values(game)
    found = []
    for contestant, n_remove, seed in product(parse_methods(METHODS), range(1, game.n_players), SEEDS):
        value, evaluations = chosen(contestant, game, n_remove, seed)
        found.append(
            {
                "game": name,
                "method": contestant.label,
                "n_remove": n_remove,
                "seed": seed,
                "gap": round((best[n_remove] - value) / abs(best[n_remove]), 6),
                "evaluations": evaluations,
            }
        )
    return found


def main() -> None:
    """Run the games that the command line names, or all, and write the result after each."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("games", nargs="*", choices=[*names(), []])
    wanted = parser.parse_args().games or names()
    known = json.loads(RESULT.read_text(encoding="utf-8"))["rows"] if RESULT.exists() else []
    found = [row for row in known if row["game"] not in wanted]
    for name in wanted:
        found += rows(name)
        games = sorted({row["game"] for row in found})
        about = {"command": "python benchmarks/best_sets.py", "games": games, "near": NEAR}
        write_json_atomically(RESULT, about | {"rows": found})
        for contestant in parse_methods(METHODS):
            gaps = [r["gap"] for r in found if (r["game"], r["method"]) == (name, contestant.label)]
            print(name, contestant.label, f"{np.mean(np.array(gaps) <= NEAR):.3f}", flush=True)


if __name__ == "__main__":
    main()
