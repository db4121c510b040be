"""The Python API: the steps of the pipeline as functions, and all of them in one."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from shapcut.baselines.expert_statistics import first_evidence
from shapcut.data.windows import load_calibration
from shapcut.estimators.base import EstimationProblem, require_handles_groups
from shapcut.estimators.robustness import examined
from shapcut.game.budget import BudgetedGame, capped_budget
from shapcut.game.coalitions import Player
from shapcut.game.contributions import Contributions
from shapcut.game.game import Game, WrappedGame
from shapcut.game.granularity import Granularity
from shapcut.game.plan import RemovalPlan
from shapcut.game.scale import require_spread
from shapcut.host.host import build_host, select_adapter
from shapcut.host.open_model import find_model, open_model
from shapcut.models.fingerprint import model_fingerprint
from shapcut.models.quantization import is_quantized
from shapcut.pipeline.prune import prune as run_pipeline
from shapcut.pipeline.result import PruneResult
from shapcut.pipeline.series import SeriesResult, prune_series
from shapcut.recipe.recipe import make_recipe
from shapcut.selection.base import SelectionProblem
from shapcut.support.errors import InputError
from shapcut.support.progress import ConsoleReporter
from shapcut.valuation.game_spec import GameOrigin
from shapcut.valuation.model_game import ModelGame
from shapcut.valuation.utilities import ModelUtility, bound_utility


def load_game(
    source: str,
    *,
    calibration: str = "builtin",
    samples: int = 16,
    sequence_length: int = 128,
    seed: int = 0,
    utility: str | Callable[[nn.Module], float] = "log-likelihood",
    granularity: Granularity = "block",
    device: str = "auto",
    dtype: str = "auto",
) -> ModelGame:
    """Load a model and calibration text, and build their game.

    Args:
        source: a local directory, hub id, ``.gguf`` file, ``demo:NAME``, or a path that an installed
            format claims.
        calibration: ``builtin``, a ``.txt`` or ``.jsonl`` file, or ``hf:NAME``.
        samples: number of calibration windows.
        sequence_length: tokens per window.
        seed: seed of the choice of windows.
        utility: a registered name, or any function of the model (higher is better).
        granularity: what a player is.
        device: device of the model.
        dtype: number format of the evaluation.

    Raises:
        InputError: if the model or the text cannot be used.
    """
    host = build_host()
    opened = open_model(host, find_model(host, source, device=device))
    windows = load_calibration(
        calibration, opened.tokenizer, samples=samples, sequence_length=sequence_length, seed=seed
    )
    return ModelGame(
        opened.model,
        opened.adapter,
        windows.input_ids,
        utility=bound_utility(host.utilities.create(utility), opened.adapter, opened.tokenizer)
        if isinstance(utility, str)
        else ModelUtility(utility, getattr(utility, "__qualname__", "callable")),
        granularity=granularity,
        dtype=dtype,
        origin=GameOrigin(source, utility) if isinstance(utility, str) else None,
    )


def estimate(
    game: Game,
    *,
    budget: int = 500,
    seed: int = 0,
    remove: int | None = None,
    estimator: str = "surrogate",
) -> Contributions:
    """Estimate every player's contribution to the value.

    Args:
        game: any game.
        budget: maximum number of distinct coalitions to measure.
        seed: source of all randomness.
        remove: number of players to remove later, if known; the default estimator measures near it.
        estimator: ``NAME[:key=value,...]``.

    Raises:
        InputError: if the estimator is unknown, the budget is too small for it, or values are out of scale.
        ShapcutError: if all measured coalitions have the same value.
    """
    chosen = build_host().estimators.create(estimator)
    counted = BudgetedGame(game, capped_budget(budget, game.players))
    require_handles_groups(game.players, "estimator", chosen.name, handles_groups=chosen.handles_groups)
    evidence = partial(first_evidence, counted)
    problem = EstimationProblem(counted, counted.budget, np.random.default_rng(seed), remove, evidence)
    found: Contributions = chosen.estimate(problem)
    require_spread(found.measured)
    measurements = counted.measurements(found.coalitions[found.on_all_text])
    return examined(found, measurements, np.random.default_rng([seed, 1]))


def select(
    contributions: Contributions,
    players: Sequence[Player],
    *,
    remove: int,
    game: Game | None = None,
    budget: int = 250,
    seed: int = 0,
    selector: str = "search",
) -> RemovalPlan:
    """Choose the players to remove.

    Args:
        contributions: the result of `estimate`.
        players: the game's players.
        remove: number of players to remove.
        game: the game to measure candidates in; None: choose by the contributions and the surrogate.
        budget: maximum number of further coalitions to measure in ``game``.
        seed: source of all randomness.
        selector: ``NAME[:key=value,...]``.

    Raises:
        InputError: if the selector is unknown, or no set of that size can be removed.
    """
    chosen = build_host().selectors.create(selector)
    require_handles_groups(players, "selector", chosen.name, handles_groups=chosen.handles_groups)
    problem = SelectionProblem(
        contributions, players, remove, game=game, budget=budget, rng=np.random.default_rng(seed)
    )
    plan: RemovalPlan = chosen.select(problem)
    while isinstance(game, WrappedGame):
        game = game.game
    if not isinstance(game, ModelGame):
        return plan
    made_for = {"model_fingerprint": game.model_fingerprint, "granularity": game.granularity}
    return plan.model_copy(update=made_for)


def apply(plan: RemovalPlan, model: nn.Module, *, any_model: bool = False) -> nn.Module:
    """Remove the plan's players from a model, in place, and return the model to use from now on.

    Args:
        plan: from `select` with the model's game, or from a run.
        model: the same model, unchanged; of a quantized one, whose weights change their layout when they are
            first used, only the number of players is compared.
        any_model: carry out a plan that was made for another model, or does not say for which.

    Raises:
        InputError: if the plan does not fit the model or its architecture.
    """
    if not (any_model or is_quantized(model)) and plan.model_fingerprint != model_fingerprint(model):
        made_for = "another model" if plan.model_fingerprint else "no model that it names"
        raise InputError(f"the plan was made for {made_for}; any_model=True carries it out nevertheless")
    adapter = select_adapter(build_host(), model)
    n_players = len(adapter.players(model, plan.granularity))
    if n_players != len(plan.removed) + len(plan.kept):
        raise InputError(
            f"the plan is for {len(plan.removed) + len(plan.kept)} players, the model has {n_players}"
        )
    return adapter.remove(model, plan.removed, plan.granularity)


def prune(
    model: str, *, out: str | Path, run: str | Path | None = None, progress: bool = False, **options: Any
) -> PruneResult | SeriesResult:
    """Run the whole pipeline: score, select, remove, post-process, verify and write.

    Several amounts, such as ``ratio=(0.1, 0.2)``, give several cuts in ``out/ratio-0.1`` and so on.

    Args:
        model: a local directory, hub id, ``.gguf`` file or ``demo:NAME``.
        out: a new directory for the checkpoint, or ``FILE.gguf`` to cut a GGUF file.
        run: the run directory; default: beside ``out``.
        progress: whether to report on stderr.
        options: fields of `shapcut.recipe.recipe.Recipe`, for example ``ratio=0.2`` or ``then=["STEP"]``.

    Raises:
        InputError: if an argument is invalid, before any evaluation.
    """
    recipe = make_recipe({"model": model, **options})
    run_all = prune_series if len(recipe.target_labels()) > 1 else run_pipeline
    return run_all(
        recipe,
        Path(out),
        build_host(),
        run_directory=None if run is None else Path(run),
        reporter=ConsoleReporter() if progress else None,
    )
