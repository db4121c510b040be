"""A recipe made ready: whatever can be refused is refused here, before the first evaluation."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import nn

from shapcut.adapter import Adapter
from shapcut.arithmetic import fusing_pays
from shapcut.calibration import Calibration, check_size, check_source, load_calibration, load_held_out
from shapcut.errors import InputError
from shapcut.estimators import Estimator
from shapcut.executor import Executor
from shapcut.gamerecipe import GameOrigin
from shapcut.host import Host, checkpoint_formats, select_adapter
from shapcut.loading import LoadedModel, inspect_source, load
from shapcut.modelgame import ModelGame
from shapcut.permitted import require_permitted
from shapcut.plan import RemovalPlan
from shapcut.postprocess import PostProcessor
from shapcut.quantized import is_quantized
from shapcut.recipe import Recipe
from shapcut.sampling import removable
from shapcut.selection import Selector, require_removable
from shapcut.steps import check_order
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

    def step_inputs(self, plan: RemovalPlan) -> dict[str, Any]:
        """What decides the results of post-pruning steps beside the steps themselves, as plain data."""
        return {
            "removed": plan.removed,
            "granularity": plan.granularity,
            "model": self.game.model_fingerprint,
            "text": self.calibration.fingerprint,
            "seed": self.recipe.seed,
        }


def make_parts(recipe: Recipe, host: Host) -> Parts:
    """Look up and make what the recipe names.

    Raises:
        InputError: on an unknown name or option, or steps in an order that makes no sense.
    """
    options = {} if recipe.sampler is None else {"sampler": host.samplers.create(recipe.sampler)}
    steps = tuple((spec, host.postprocessors.create(spec)) for spec in recipe.then)
    check_order(steps)
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
    formats = checkpoint_formats(host)
    facts = inspect_source(recipe.model, recipe.trust_remote_code, formats=formats)
    check_order(parts.steps, facts.quantization)
    check_size(recipe.samples, recipe.sequence_length, facts.max_length)
    if target and facts.depth and recipe.granularity == "block":
        recipe.n_remove(facts.depth)
    loaded = load(
        recipe.model,
        device=recipe.device,
        trust_remote_code=recipe.trust_remote_code,
        offload=recipe.offload,
        formats=formats,
    )
    adapter = select_adapter(host, loaded.model)
    calibration = load_windows(recipe, loaded.tokenizer, recipe.samples, recipe.seed)
    model = adapter.canonicalise(loaded.model)
    game = ModelGame(
        model,
        adapter,
        calibration.input_ids,
        utility=parts.utility,
        granularity=recipe.granularity,
        dtype=recipe.dtype,
        memory_budget=recipe.memory_budget,
        fuse=fuses(recipe, adapter, model, calibration),
        sequences_per_step=recipe.batch_size,
        origin=GameOrigin(recipe.model, recipe.utility, recipe.trust_remote_code, recipe.offload),
    )
    n_remove = recipe.n_remove(game.n_players) if target else None
    if n_remove is not None:
        require_removable(game.players, n_remove)
        rng = np.random.default_rng(recipe.seed)
        require_permitted(removable(game.players).tolist(), n_remove, game.permits, rng)
    for _, step in parts.steps:
        step.check(game.model)
        step_windows(recipe, loaded.tokenizer, step)
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


def fuses(recipe: Recipe, adapter: Adapter, model: nn.Module, calibration: Calibration) -> bool:
    """Whether the evaluation of a recipe runs as fused kernels: a matter of the recipe, not of the clock."""
    if recipe.compile != "auto":
        return recipe.compile == "on"
    if is_quantized(model):
        return False
    parameters = sum(player.parameters for player in adapter.players(model, recipe.granularity))
    operations = 2.0 * parameters * calibration.n_tokens * recipe.budget
    return fusing_pays(adapter.input_device(model), operations)


def load_windows(recipe: Recipe, tokenizer: Any, samples: int, seed: int) -> Calibration:
    """Windows of the recipe's calibration text."""
    return load_calibration(
        recipe.calibration, tokenizer, samples=samples, sequence_length=recipe.sequence_length, seed=seed
    )


def step_windows(recipe: Recipe, tokenizer: Any, step: PostProcessor) -> Calibration:
    """The calibration text as a step wants it."""
    return load_windows(recipe, tokenizer, step.samples or recipe.samples, recipe.seed)


def held_out_windows(recipe: Recipe, tokenizer: Any) -> Calibration:
    """Windows of the text that no choice sees."""
    return load_held_out(
        recipe.calibration,
        tokenizer,
        samples=recipe.held_out_samples,
        sequence_length=recipe.sequence_length,
    )


def _final_game(recipe: Recipe, tokenizer: Any, game: ModelGame) -> ModelGame | None:
    """More windows to compare finalists on, in the model's own number format as these values decide.

    A text too short for the default number of windows goes without.
    """
    if recipe.finalist_samples == 0:
        return None
    try:
        windows = load_windows(recipe, tokenizer, recipe.finalist_samples, recipe.seed + 1)
    except InputError:
        if "finalist_samples" in recipe.model_fields_set:
            raise
        return None
    return game.on(windows.input_ids, dtype=game.own_dtype, fuse=False)
