"""The Python API: the steps of the pipeline as functions, and all of them in one."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from shapcut.baselines.expert_statistics import first_evidence
from shapcut.comparison.compare import Comparison
from shapcut.comparison.compare import compare as compare_methods
from shapcut.comparison.contestants import parse_methods
from shapcut.data.mixture import check_other_texts
from shapcut.estimators.base import EstimationProblem, Estimator, require_handles_players
from shapcut.estimators.robustness import examined
from shapcut.game.budget import BudgetedGame, capped_budget
from shapcut.game.checkpoint_form import AllowedForm
from shapcut.game.coalitions import Player
from shapcut.game.contributions import Contributions
from shapcut.game.game import Game, WrappedGame
from shapcut.game.granularity import Granularity
from shapcut.game.plan import RemovalPlan
from shapcut.game.scale import require_spread
from shapcut.host.host import Host, build_host, select_adapter
from shapcut.host.open_model import OpenModel, find_model, open_model
from shapcut.measurement.held_out_text import TextQuestion
from shapcut.measurement.lm_eval_tasks import Harness
from shapcut.measurement.measure import SpeedQuestion, measure
from shapcut.measurement.record import ModelMeasurement
from shapcut.models.fingerprint import model_fingerprint
from shapcut.models.quantization import is_quantized
from shapcut.pipeline.in_memory import IN_MEMORY, PrunedModel, prune_in_memory, with_saved_model
from shapcut.pipeline.inspection import Inspection, inspect_model, inspect_named
from shapcut.pipeline.output import is_gguf_output
from shapcut.pipeline.prune import prune as run_pipeline
from shapcut.pipeline.result import PruneResult
from shapcut.pipeline.series import SeriesResult, prune_series
from shapcut.pipeline.windows import RunText
from shapcut.recipe.recipe import make_recipe
from shapcut.selection.base import SelectionProblem, Selector, require_removable
from shapcut.support.errors import InputError
from shapcut.support.progress import ConsoleReporter, Silent
from shapcut.valuation.game_spec import GameOrigin
from shapcut.valuation.model_game import ModelGame
from shapcut.valuation.utilities import ModelUtility, TokenUtility, Utility, bound_utility


def load_game(
    source: str | Path,
    *,
    calibration: str = "builtin",
    samples: int = 16,
    sequence_length: int = 128,
    seed: int = 0,
    utility: str | TokenUtility | Callable[[nn.Module], float] = "log-likelihood",
    granularity: Granularity = "block",
    form: AllowedForm = "plain",
    device: str = "auto",
    dtype: str = "auto",
) -> ModelGame:
    """Load a model and calibration text, and build their game.

    Args:
        source: a local directory, hub id, ``.gguf`` file, ``demo:NAME``, or a path that an installed
            format claims.
        calibration: a text or a mixture, see `shapcut.data.mixture.text_shares`; ``self``: the model's own.
        samples: number of calibration windows.
        sequence_length: tokens per window.
        seed: seed of the choice of windows.
        utility: a registered name, a token utility, or any function of the model (higher is better).
        granularity: what a player is.
        form: which forms of checkpoints a permitted set may take.
        device: device of the model.
        dtype: number format of the evaluation.

    Raises:
        InputError: if the model or the text cannot be used.
    """
    if not isinstance(source, str | Path):
        raise InputError("load_game needs the name of a model; `ModelGame` takes one in memory")
    host, source = build_host(), str(source)
    opened = open_model(host, find_model(host, source, device=device))
    windows = RunText.of(calibration, opened, sequence_length, seed, Silent()).calibration(samples)
    return ModelGame(
        opened.model,
        opened.adapter,
        windows.input_ids,
        utility=_as_utility(utility, host, opened),
        granularity=granularity,
        form=form,
        dtype=dtype,
        origin=GameOrigin(source, utility) if isinstance(utility, str) else None,
    )


def _as_utility(
    given: str | TokenUtility | Callable[[nn.Module], float], host: Host, opened: OpenModel
) -> Utility:
    if isinstance(given, str):
        return bound_utility(host.utilities.create(given), opened.adapter, opened.tokenizer)
    if isinstance(given, TokenUtility):
        return given
    return ModelUtility(given, getattr(given, "__qualname__", "callable"))


def estimate(
    game: Game,
    *,
    budget: int = 500,
    seed: int = 0,
    remove: int | None = None,
    estimator: str | Estimator = "surrogate",
) -> Contributions:
    """Estimate every player's contribution to the value.

    Args:
        game: any game.
        budget: maximum number of distinct coalitions to measure.
        seed: source of all randomness.
        remove: number of players to remove later, if known; the default estimator measures near it.
        estimator: ``NAME[:key=value,...]``, or the estimator itself.

    Raises:
        InputError: if the estimator is unknown, the budget is too small for it, ``remove`` is out of range,
            or values are out of scale.
        ShapcutError: if all measured coalitions have the same value.
    """
    if remove is not None:
        require_removable(game.players, remove)
    chosen = build_host().estimators.create(estimator) if isinstance(estimator, str) else estimator
    counted = BudgetedGame(game, capped_budget(budget, game.players))
    require_handles_players(game.players, "estimator", chosen)
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
    selector: str | Selector = "search",
) -> RemovalPlan:
    """Choose the players to remove.

    Args:
        contributions: the result of `estimate`.
        players: the game's players.
        remove: number of players to remove.
        game: the game to measure candidates in; None: choose by the contributions and the surrogate.
        budget: maximum number of further coalitions to measure in ``game``.
        seed: source of all randomness.
        selector: ``NAME[:key=value,...]``, or the selector itself.

    Raises:
        InputError: if the selector is unknown, or no set of that size can be removed.
    """
    chosen = build_host().selectors.create(selector) if isinstance(selector, str) else selector
    require_handles_players(players, "selector", chosen)
    problem = SelectionProblem(
        contributions, players, remove, game=game, budget=budget, rng=np.random.default_rng(seed)
    )
    plan: RemovalPlan = chosen.select(problem)
    while isinstance(game, WrappedGame):
        game = game.game
    if not isinstance(game, ModelGame):
        return plan
    made_for = {
        "model_fingerprint": game.model_fingerprint,
        "granularity": game.granularity,
        "form": game.form_of(plan.removed) or "same",
    }
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
    forms = adapter.checkpoint_forms(model, plan.removed, plan.granularity)
    if plan.form not in forms:  # written by hand
        return adapter.remove(model, plan.removed, plan.granularity)
    return adapter.remove_as(model, plan.removed, plan.granularity, plan.form)


def prune(
    model: str | Path | nn.Module,
    tokenizer: Any = None,
    *,
    out: str | Path | None = None,
    run: str | Path | None = None,
    progress: bool = False,
    **options: Any,
) -> PruneResult | SeriesResult | PrunedModel:
    """Run the whole pipeline: score, select, remove, post-process, verify and write.

    Several amounts, such as ``ratio=(0.1, 0.2)``, give several cuts in ``out/ratio-0.1`` and so on. A model
    in memory is cut in place if there is no ``out``; else its checkpoint is written to a temporary directory
    beside ``out`` and pruned from there, and the model itself is not changed.

    Args:
        model: a local directory, hub id, ``.gguf`` file or ``demo:NAME``, or a model in evaluation mode.
        tokenizer: of a model in memory.
        out: a new directory for the checkpoint, or ``FILE.gguf`` to cut a GGUF file; None is for a model in
            memory.
        run: the run directory; default: beside ``out``.
        progress: whether to report on stderr.
        options: fields of `shapcut.recipe.recipe.Recipe`, for example ``ratio=0.2`` or ``then=["STEP"]``.

    Returns:
        What was written, or without ``out`` the pruned model with its plan and figures.

    Raises:
        InputError: if an argument is invalid, before any evaluation.
    """
    model = _name(model)
    host, reporter = build_host(), ConsoleReporter() if progress else None
    directory = None if run is None else Path(run)
    if out is None:
        if isinstance(model, str):
            raise InputError(f"out is missing: name a new directory for the pruned checkpoint of {model}")
        recipe = make_recipe({"model": IN_MEMORY, **options})
        return prune_in_memory(recipe, model, _required(tokenizer), host, run=directory, reporter=reporter)
    place = Path(out)

    def written(source: str) -> PruneResult | SeriesResult:
        recipe = make_recipe({"model": source, **options}).mended_by_default(as_file=is_gguf_output(place))
        run_all = prune_series if len(recipe.target_labels()) > 1 else run_pipeline
        return run_all(recipe, place, host, run_directory=directory, reporter=reporter)

    if isinstance(model, str):
        return written(model)
    return with_saved_model(model, _required(tokenizer), host, written, beside=place)


def inspect(model: str | Path | nn.Module, *, granularity: Granularity = "block") -> Inspection:
    """What can be removed from a model.

    Args:
        model: as for `prune`; a directory without weights, or a ``config.json``, is read by its config alone.
        granularity: what a player is.

    Raises:
        InputError: if there is no such model, or no adapter knows it.
    """
    host, model = build_host(), _name(model)
    if isinstance(model, str):
        return inspect_named(host, model, granularity)
    adapter = select_adapter(host, model)
    return inspect_model(adapter.canonicalise(model), adapter, IN_MEMORY, granularity)


def evaluate(
    model: str | Path | nn.Module,
    tokenizer: Any = None,
    *,
    calibration: str = "builtin",
    text: str | None = None,
    windows: int | None = 32,
    window: int = 128,
    stride: int | None = None,
    judge_on: Sequence[str] | None = None,
    tasks: str | None = None,
    task_data: str | Path | None = None,
    limit: int | None = None,
    repeats: int = 5,
    device: str = "auto",
) -> ModelMeasurement:
    """Measure a model: perplexity, size, latency, accuracy on tasks.

    Args:
        model: as for `prune`.
        tokenizer: of a model in memory.
        calibration: the text whose last quarter is read, unless ``text`` is given.
        text: a text that is read as a whole.
        windows: number of windows; None: all.
        window: tokens per window.
        stride: tokens by which overlapping windows move on; None: each window is read on its own.
        judge_on: other texts whose last quarters are read, too; None: the built-in ones without
            ``calibration``, or none if ``text`` is given.
        tasks: ``zero-shot``, or tasks of lm-evaluation-harness with commas between.
        task_data: a directory with a file of questions for each task.
        limit: questions of each task at most.
        repeats: measurements of latency, 0 for none.
        device: device of a named model.

    Raises:
        InputError: if an argument is invalid, or the model or a text cannot be read.
    """
    question = TextQuestion(text or calibration, text is not None, window, windows, stride, judge_on)
    question.check(None)
    check_other_texts(judge_on)
    harness = Harness.asked(tasks, data=task_data, limit=limit)
    host, files, model = build_host(), None, _name(model)
    if isinstance(model, str):
        source = find_model(host, model, device=device)
        opened = open_model(host, source)
        adapter, loaded, tokens = opened.adapter, opened.model, opened.tokenizer
        files = source.location.weights
    else:
        adapter, tokens = select_adapter(host, model), _required(tokenizer)
        loaded = adapter.canonicalise(model)
    held_out, sliding = question.read(tokens)
    length = getattr(getattr(loaded, "config", None), "max_position_embeddings", None)
    return measure(
        adapter,
        loaded,
        held_out,
        others=question.others(tokens),
        sliding=sliding,
        speed=SpeedQuestion(repeats=repeats).within(length),
        tasks=harness,
        tokenizer=tokens,
        files=files,
    )


def compare(
    model: str | Path,
    *,
    methods: str,
    remove: int | Sequence[int],
    run: str | Path,
    seeds: Sequence[int] = (0,),
    progress: bool = False,
    **options: Any,
) -> Comparison:
    """Compare methods on one model: what they remove, held-out perplexity, accuracy, cost.

    A second call with the same ``run`` repeats nothing that is finished.

    Args:
        model: as for `prune`.
        methods: names with commas between, as for ``shapcut compare``.
        remove: numbers of players to remove.
        run: directory for evaluations and results.
        seeds: seeds, one comparison each.
        progress: whether to report on stderr.
        options: fields of `shapcut.recipe.recipe.Recipe`.

    Raises:
        InputError: if an argument is invalid, before any evaluation.
    """
    model = str(model)
    amounts = [remove] if isinstance(remove, int) else list(remove)
    return compare_methods(
        make_recipe({"model": model, **options}),
        parse_methods(methods),
        [make_recipe({"model": model, **options, "remove": amount}) for amount in amounts],
        seeds=seeds,
        run_directory=Path(run),
        host=build_host(),
        reporter=ConsoleReporter() if progress else None,
    )


def _name(model: str | Path | nn.Module) -> str | nn.Module:
    """A path as a name."""
    return str(model) if isinstance(model, Path) else model


def _required(tokenizer: Any) -> Any:
    if tokenizer is None:
        raise InputError("tokenizer is missing: a model in memory needs it for its text")
    return tokenizer
