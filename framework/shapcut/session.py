"""A recipe made ready: whatever can be refused is refused here, before the first evaluation."""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any, get_args

from shapcut.adapter import Adapter
from shapcut.calibration import Calibration, check_size, check_source, load_calibration, load_held_out
from shapcut.errors import InputError
from shapcut.estimators import Estimator
from shapcut.executor import Executor
from shapcut.gamerecipe import GameOrigin
from shapcut.host import Host, select_adapter
from shapcut.loading import LoadedModel, inspect_source, load
from shapcut.modelgame import ModelGame
from shapcut.postprocess import PostProcessor, Stage
from shapcut.recipe import Recipe
from shapcut.selection import Selector, require_removable
from shapcut.utilities import Utility


@dataclass(frozen=True, slots=True)
class Parts:
    """What a recipe's names stand for."""

    estimator: Estimator
    selector: Selector
    utility: Utility
    executor: Executor
    steps: tuple[tuple[str, PostProcessor], ...]


@dataclass(frozen=True, slots=True)
class Session:
    """A loaded model, its game and the parts that will work on it.

    Attributes:
        recipe: what was asked for.
        host: the plugins.
        loaded: the model and its tokenizer.
        adapter: the model's adapter.
        calibration: what coalitions are measured on.
        held_out: text that no choice sees.
        game: the game on ``calibration``.
        finals: the game on more windows of the calibration text, to compare finalists; None if not wanted.
        n_remove: how many players are to be removed, or None if only contributions are wanted.
        parts: estimator, selector, executor and post-pruning steps.
    """

    recipe: Recipe
    host: Host
    loaded: LoadedModel
    adapter: Adapter
    calibration: Calibration
    held_out: Calibration
    game: ModelGame
    finals: ModelGame | None
    n_remove: int | None
    parts: Parts


def make_parts(recipe: Recipe, host: Host) -> Parts:
    """Look up and make what the recipe names.

    Raises:
        InputError: on an unknown name or option, or steps in an order that makes no sense.
    """
    options = {} if recipe.sampler is None else {"sampler": host.samplers.create(recipe.sampler)}
    steps = tuple((spec, host.postprocessors.create(spec)) for spec in recipe.then)
    stages: tuple[Stage, ...] = get_args(Stage)
    for (earlier, first), (later, second) in pairwise(steps):
        if stages.index(first.stage) > stages.index(second.stage):
            raise InputError(
                f"step {later!r} ({second.stage}) cannot follow {earlier!r} ({first.stage}): "
                f"the order is {', '.join(stages)}"
            )
    return Parts(
        estimator=host.estimators.create(recipe.estimator, **options),
        selector=host.selectors.create(recipe.selector),
        utility=host.utilities.create(recipe.utility),
        executor=host.executors.create(recipe.executor),
        steps=steps,
    )


def prepare(recipe: Recipe, host: Host, *, target: bool) -> Session:
    """Load the model and the text, and check that everything asked for can be done.

    Args:
        recipe: what is asked for.
        host: the plugins.
        target: whether the recipe must say how much to remove; if it does without a must, that is a hint.

    Raises:
        InputError: with the first thing that is wrong; cheap checks come before loading weights.
    """
    target = target or recipe.has_target
    parts = make_parts(recipe, host)
    parts.executor.check()
    check_source(recipe.calibration)
    config = inspect_source(recipe.model, recipe.trust_remote_code)
    max_length = getattr(config.get_text_config(), "max_position_embeddings", None)
    check_size(recipe.samples, recipe.sequence_length, max_length)
    depth = getattr(config.get_text_config(), "num_hidden_layers", None)
    if target and depth and recipe.granularity == "block":
        recipe.n_remove(depth)
    loaded = load(recipe.model, device=recipe.device, trust_remote_code=recipe.trust_remote_code)
    adapter = select_adapter(host, loaded.model)
    calibration = load_windows(recipe, loaded.tokenizer, recipe.samples, recipe.seed)
    game = ModelGame(
        adapter.canonicalise(loaded.model),
        adapter,
        calibration.input_ids,
        utility=parts.utility,
        granularity=recipe.granularity,
        dtype=recipe.dtype,
        origin=GameOrigin(recipe.model, recipe.utility, recipe.trust_remote_code),
    )
    n_remove = recipe.n_remove(game.n_players) if target else None
    if n_remove is not None:
        require_removable(game.players, n_remove)
    for _, step in parts.steps:
        step.check(game.model)
    return Session(
        recipe=recipe,
        host=host,
        loaded=loaded,
        adapter=adapter,
        calibration=calibration,
        held_out=held_out_windows(recipe, loaded.tokenizer),
        game=game,
        finals=_final_game(recipe, loaded.tokenizer, game),
        n_remove=n_remove,
        parts=parts,
    )


def load_windows(recipe: Recipe, tokenizer: Any, samples: int, seed: int) -> Calibration:
    """Windows of the recipe's calibration text."""
    return load_calibration(
        recipe.calibration, tokenizer, samples=samples, sequence_length=recipe.sequence_length, seed=seed
    )


def held_out_windows(recipe: Recipe, tokenizer: Any) -> Calibration:
    """Windows of the text that no choice sees."""
    return load_held_out(
        recipe.calibration,
        tokenizer,
        samples=recipe.held_out_samples,
        sequence_length=recipe.sequence_length,
    )


def _final_game(recipe: Recipe, tokenizer: Any, game: ModelGame) -> ModelGame | None:
    """More windows to compare finalists on; a text too short for the default number goes without."""
    if recipe.finalist_samples == 0:
        return None
    try:
        windows = load_windows(recipe, tokenizer, recipe.finalist_samples, recipe.seed + 1)
    except InputError:
        if "finalist_samples" in recipe.model_fields_set:
            raise
        return None
    return game.on(windows.input_ids)
