"""Mixed cuts against cuts of one kind, at equal parameters: held-out perplexity.

    python benchmarks/players/mixed.py --runs RUNS             # both mixtures; goes on where it stopped
    python benchmarks/players/mixed.py --runs RUNS --models qwen3moe --seeds 0

``mixed`` is what `shapcut prune --granularity mixed` takes by default. The others remove whole blocks, MoE
parts, or equally many experts of each layer, by the default estimator and selector in the same game. Mixed
has the budget of these three together. A kind that cannot reach a target, or that a checkpoint cannot lack,
has a row that says so. A seed decides the windows of calibration text and the randomness of a method.
"""

import argparse
import json
import math
import platform
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from shapcut.baselines.expert_statistics import first_evidence
from shapcut.estimators.base import EstimationProblem
from shapcut.estimators.mixed import MixedEstimator
from shapcut.estimators.surrogate import SurrogateEstimator
from shapcut.game.budget import BudgetedGame
from shapcut.game.coalitions import without
from shapcut.game.kinds import Kind, KindGame, kinds_of
from shapcut.game.mixed import mixed_summary
from shapcut.game.plan import RemovalPlan
from shapcut.game.target import Target
from shapcut.host.host import build_host
from shapcut.pipeline.session import Session, prepare
from shapcut.recipe.recipe import make_recipe
from shapcut.selection.mixed import MixedSelector
from shapcut.selection.search import SearchSelector
from shapcut.selection.targets import select_for, target_of_kind
from shapcut.support.errors import InputError
from shapcut.support.files import write_json_atomically

ROOT = Path(__file__).parents[1]
RESULT = ROOT / "results" / "players_mixed.json"
MODELS = ("qwen3moe", "mixtral")
RATIOS = (0.125, 0.25, 0.375)
SEEDS = (0, 1, 2)
METHODS = ("mixed", "block", "moe", "expert")
BUDGET, BUDGET_OF_MIXED = 150, 450
WINDOWS, LENGTH, FINAL_WINDOWS, HELD_OUT = 16, 128, 64, 48


def session_of(name: str, ratio: float, seed: int) -> Session:
    """The loaded model, its texts and the target."""
    options = {
        "model": str(ROOT / "zoo" / "models" / name),
        "granularity": "mixed",
        "ratio": ratio,
        "budget": BUDGET,
        "samples": WINDOWS,
        "sequence_length": LENGTH,
        "finalist_samples": FINAL_WINDOWS,
        "held_out_samples": HELD_OUT,
        "seed": seed,
    }
    return prepare(make_recipe(options), build_host(), target=True)


def chosen(session: Session, method: str) -> tuple[int, ...]:
    """The players that a method removes.

    Raises:
        InputError: if it cannot reach the target.
    """
    target = session.targets[0]
    if method == "mixed":
        return _mixed(session, BudgetedGame(session.game, BUDGET_OF_MIXED), target).removed
    game = BudgetedGame(session.game, BUDGET)
    kinds = {kind.name: kind for kind in kinds_of(game.players, game.permits)}
    if method not in kinds:
        raise InputError(f"nothing of the kind {method} can be removed")
    kind = kinds[method]
    return tuple(kind.whole_set(_of_kind(session, game, kind, target_of_kind(target, kind)).removed))


def _mixed(session: Session, game: BudgetedGame, target: Target) -> RemovalPlan:
    rng = np.random.default_rng(session.recipe.seed)
    problem = EstimationProblem(game, game.budget, rng, session.n_remove, partial(first_evidence, game))
    contributions = MixedEstimator().estimate(problem)
    return select_for(
        MixedSelector(),
        contributions,
        target,
        game=game,
        budget=game.remaining,
        finals=session.finals,
        rng=rng,
    )


def _of_kind(session: Session, game: BudgetedGame, kind: Kind, target: Target) -> RemovalPlan:
    rng, own = np.random.default_rng(session.recipe.seed), KindGame(game, kind)
    scores = first_evidence(game) if kind.name == "expert" else None
    evidence = None if scores is None else scores[:, [some[0] for some in kind.sets]]
    contributions = SurrogateEstimator().estimate(
        EstimationProblem(own, BUDGET, rng, target.typical_size(), lambda: evidence)
    )
    finals = [KindGame(each, kind) for each in session.finals]
    return select_for(
        SearchSelector(), contributions, target, game=own, budget=game.remaining, finals=finals, rng=rng
    )


def nats(session: Session, removed: tuple[int, ...]) -> list[float]:
    """The loss of each held-out window."""
    game = session.game.on(session.held_out.input_ids, dtype=session.game.own_dtype, fuse=False)
    (means,) = game.evaluator.window_means(without(game.n_players, [removed]))
    return [round(float(loss), 6) for loss in means]


def row(name: str, ratio: float, seed: int, method: str) -> dict[str, Any]:
    """What a method removes, and the loss of each held-out window."""
    session = session_of(name, ratio, seed)
    found: dict[str, Any] = {"model": name, "ratio": ratio, "seed": seed, "method": method}
    try:
        removed = chosen(session, method)
    except InputError as error:
        return {**found, "failure": str(error)}
    return {
        **found,
        "what": mixed_summary(session.game.players, removed),
        "parameters": round(session.targets[0].gain(removed)),
        "removed": list(removed),
        "nats": nats(session, removed),
    }


def judged(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows with perplexity, and with the paired difference to mixed in nats and its standard error."""
    key = ("model", "ratio", "seed")
    mixed = {tuple(each[k] for k in key): each["nats"] for each in rows if each["method"] == "mixed"}
    found = []
    for each in rows:
        if "failure" in each:
            found.append(each)
            continue
        losses = np.array(each["nats"])
        difference = losses - np.array(mixed[tuple(each[k] for k in key)])
        error = difference.std(ddof=1) / math.sqrt(len(difference))
        found.append({k: value for k, value in each.items() if k not in {"nats", "removed"}})
        found[-1]["perplexity"] = round(math.exp(losses.mean()), 3)
        found[-1]["nats_above_mixed"] = [round(float(difference.mean()), 5), round(float(error), 5)]
    return found


def arguments(given: argparse.Namespace) -> str:
    """The options that restrict what is measured."""
    chosen = {
        "models": (given.models, MODELS),
        "ratios": (given.ratios, RATIOS),
        "seeds": (given.seeds, SEEDS),
    }
    return " ".join(
        f"--{name} {' '.join(map(str, found))}"
        for name, (found, default) in chosen.items()
        if tuple(found) != default
    )


def main() -> None:
    """Measure what the runs lack, then write the result."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=Path, default=Path("mixed-runs"))
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--ratios", type=float, nargs="+", default=RATIOS)
    parser.add_argument("--out", type=Path, default=RESULT)
    given = parser.parse_args()
    given.runs.mkdir(exist_ok=True)
    rows = []
    for seed in given.seeds:
        for name in given.models:
            for ratio in given.ratios:
                for method in METHODS:
                    place = given.runs / f"{name}.{ratio}.{seed}.{method}.json"
                    if not place.exists():
                        write_json_atomically(place, row(name, ratio, seed, method))
                    rows.append(json.loads(place.read_text()))
                    print({k: v for k, v in rows[-1].items() if k not in {"nats", "removed"}}, flush=True)
    sessions = {name: session_of(name, RATIOS[0], 0) for name in given.models}
    content = {
        "command": f"python benchmarks/players/mixed.py {arguments(given)}".strip(),
        "machine": platform.machine(),
        "torch": torch.__version__,
        "budget": BUDGET,
        "budget_of_mixed": BUDGET_OF_MIXED,
        "calibration": {"windows": WINDOWS, "length": LENGTH, "further_windows": FINAL_WINDOWS},
        "held_out_windows": HELD_OUT,
        "whole": {
            name: round(math.exp(float(np.mean(nats(each, ())))), 3) for name, each in sessions.items()
        },
        "rows": judged(rows),
    }
    write_json_atomically(given.out, content)


if __name__ == "__main__":
    main()
