"""Windows of text for each part of a run."""

from typing import Any

import torch
from torch import nn

from shapcut.data.windows import Calibration, load_calibration, load_held_out
from shapcut.models.adapter import Adapter
from shapcut.models.quantization import is_quantized
from shapcut.recipe.recipe import Recipe
from shapcut.steps.step import PostProcessor
from shapcut.support.errors import InputError
from shapcut.valuation.model_game import ModelGame
from shapcut.valuation.precision import fusing_pays

_FINAL_PARTS = 8


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


def final_games(recipe: Recipe, tokenizer: Any, game: ModelGame) -> tuple[ModelGame, ...]:
    """Windows to compare finalists on, in up to 8 equal parts; what the division leaves over goes unused.

    The second half of the parts, which few sets reach, is measured in the model's own number format: these
    values decide. None is worth compiling kernels for. A text too short for the default number of windows
    goes without.
    """
    if recipe.finalist_samples == 0:
        return ()
    try:
        windows = load_windows(recipe, tokenizer, recipe.finalist_samples, recipe.seed + 1)
    except InputError:
        if "finalist_samples" in recipe.model_fields_set:
            raise
        return ()
    size = max(1, recipe.finalist_samples // _FINAL_PARTS)
    parts = [part for part in torch.split(windows.input_ids, size) if len(part) == size][:_FINAL_PARTS]
    first, second = parts[: len(parts) // 2], parts[len(parts) // 2 :]
    return tuple(
        [game.on(part, fuse=False) for part in first]
        + [game.on(part, dtype=game.own_dtype, fuse=False) for part in second]
    )
