"""Every estimator's error against exact Shapley values on the enumerated games of the zoo.

    python benchmarks/games.py && python benchmarks/estimators.py

The error is the root mean square over players divided by the spread (standard deviation) of the exact values;
Kendall's tau compares the rankings. Means over seeds 0 to 4.
"""

import json
import warnings
from collections.abc import Collection
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from games import enumerated, names
from shapcut.estimators.base import EstimationProblem
from shapcut.estimators.exact import ExactEstimator
from shapcut.estimators.quadratic import QuadraticSurrogate
from shapcut.estimators.robustness import kendall
from shapcut.estimators.sampling import ShapleySampler
from shapcut.game.coalitions import distinct, without
from shapcut.game.game import Game
from shapcut.host.host import build_host
from shapcut.support.errors import ShapcutError
from shapcut.support.files import write_json_atomically

RESULT = Path(__file__).parent / "results" / "estimators.json"
FIGURE = Path(__file__).parent.parent / "docs" / "figures" / "estimators.svg"
BUDGETS, SEEDS = (64, 128, 256, 512, 1024), range(5)

QUADRATIC = "quadratic surrogate, Shapley draws"
ESTIMATORS = (
    "permutation",
    "stratified",
    "shapiq:KernelSHAP",
    "shapiq:UnbiasedKernelSHAP",
    "shapiq:SVARM",
    "shapiq:PermutationSamplingSV",
    "shapiq:OwenSamplingSV",
    "paper:bootstraps=2",
    QUADRATIC,
)


def quadratic(game: Game, budget: int, rng: np.random.Generator) -> tuple[NDArray[np.float64], int]:
    """The surrogate of the default estimator on draws of the Shapley weights, not cross-validated."""
    drawn = ShapleySampler().sample(game.players, budget - 1, rng)
    coalitions = distinct(np.vstack([without(game.n_players, [()]), drawn]))
    surrogate = QuadraticSurrogate().fit(coalitions, game.values(coalitions))
    return surrogate.shapley()[0], len(coalitions)


def registered(
    spec: str, game: Game, budget: int, rng: np.random.Generator
) -> tuple[NDArray[np.float64], int]:
    """A registered estimator's contributions and how many coalitions it measured."""
    found = build_host().estimators.create(spec).estimate(EstimationProblem(game, budget, rng, n_remove=3))
    return found.values, found.evaluations


def row(name: str, spec: str, budget: int) -> dict[str, Any]:
    """One estimator with one budget on one game, over all seeds."""
    game = enumerated(name)
    truth = ExactEstimator().estimate(EstimationProblem(game, 4096, np.random.default_rng(0))).values
    errors, taus, spent = [], [], []
    for seed in SEEDS:
        rng = np.random.default_rng(seed)
        try:
            estimate = quadratic if spec == QUADRATIC else partial(registered, spec)
            values, evaluations = estimate(game, budget, rng)
        except ShapcutError as error:
            return {"game": name, "estimator": spec, "budget": budget, "problem": str(error)}
        errors.append(float(np.sqrt(np.mean((values - truth) ** 2)) / truth.std()))
        taus.append(kendall(values, truth))
        spent.append(evaluations)
    return {
        "game": name,
        "estimator": spec,
        "budget": budget,
        "error": round(float(np.mean(errors)), 4),
        "error_deviation": round(float(np.std(errors, ddof=1)), 4),
        "kendall": round(float(np.mean(taus)), 4),
        "evaluations": round(float(np.mean(spent)), 1),
    }


def cells() -> list[tuple[str, str, int]]:
    """Every game, estimator and budget that is tried."""
    return list(product(names(), ESTIMATORS, BUDGETS))


def complete(done: Collection[tuple[str, str, int]]) -> list[str]:
    """The games of which every cell is done."""
    return [name for name in names() if all(cell in done for cell in cells() if cell[0] == name)]


def draw(found: list[dict[str, Any]]) -> None:
    """Curves of the mean over games."""
    import matplotlib as mpl  # noqa: PLC0415 - an extra

    mpl.use("svg")
    from matplotlib import pyplot as plt  # noqa: PLC0415 - after the backend

    plt.rcParams["svg.hashsalt"] = "shapcut"
    figure, axes = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for axis, key in zip(axes, ("error", "kendall"), strict=True):
        for spec in ESTIMATORS:
            points = [(b, mean_over_games(found, spec, b, key)) for b in BUDGETS]
            known = [(b, value) for b, value in points if value is not None]
            if known:
                axis.plot(*zip(*known, strict=True), marker="o", label=spec, linewidth=1.2, markersize=3)
        axis.set_xscale("log", base=2)
        axis.set_xlabel("coalitions")
    axes[0].set_yscale("log")
    axes[0].set_ylabel("error over the spread of exact values")
    axes[1].set_ylabel("Kendall's tau with the exact ranking")
    axes[0].legend(fontsize=6)
    figure.savefig(FIGURE, metadata={"Date": None})


def mean_over_games(found: list[dict[str, Any]], spec: str, budget: int, key: str) -> float | None:
    """Mean over games of a figure; None if an estimator could not be run."""
    values = [row.get(key) for row in found if (row["estimator"], row["budget"]) == (spec, budget)]
    return None if not values or None in values else float(np.mean(values))


def main() -> None:
    """Run what the result file lacks, write it after each row, and draw the games that are complete."""
    warnings.simplefilter("ignore", category=UserWarning)
    known = json.loads(RESULT.read_text(encoding="utf-8"))["rows"] if RESULT.exists() else []
    done = {(r["game"], r["estimator"], r["budget"]): r for r in known}
    for cell in cells():
        if cell in done:
            continue
        done[cell] = row(*cell)
        print(done[cell], flush=True)
        about = {"command": "python benchmarks/estimators.py", "games": complete(done), "seeds": len(SEEDS)}
        write_json_atomically(RESULT, about | {"rows": list(done.values())})
    draw([found for found in done.values() if found["game"] in complete(done)])


if __name__ == "__main__":
    main()
