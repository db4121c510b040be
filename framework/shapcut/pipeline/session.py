"""A recipe made ready: whatever can be refused is refused here, before the first evaluation."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from shapcut.data.windows import (
    Calibration,
    all_windows,
    check_size,
    check_source,
)
from shapcut.game.plan import RemovalPlan
from shapcut.game.target import Target
from shapcut.host.host import Host, checkpoint_formats, select_adapter
from shapcut.measurement.player_latency import PlayerLatencies
from shapcut.models.adapter import Adapter
from shapcut.models.loading import LoadedModel, inspect_source, load
from shapcut.pipeline.parts import Parts, make_parts
from shapcut.pipeline.targets import Stopwatch, prepare_targets
from shapcut.pipeline.windows import final_games, fuses, held_out_windows, load_windows, step_windows
from shapcut.recipe.recipe import Recipe
from shapcut.steps.compensated_game import MendedGame
from shapcut.steps.runner import check_order
from shapcut.valuation.game_spec import GameOrigin
from shapcut.valuation.model_game import ModelGame


@dataclass(frozen=True, slots=True)
class Session:
    """A loaded model, its game and the parts that will work on it.

    Attributes:
        recipe: what is carried out; it asks for no finalists' text if there is none.
        host: the plugins.
        loaded: the model and its tokenizer.
        adapter: the model's adapter.
        calibration: what coalitions are measured on.
        held_out: text that no choice sees.
        game: the game on ``calibration``.
        finals: the game on further windows of the calibration text, in equal parts, to compare finalists.
        mended: the game of mended models on all those windows, if finalists are to be compared so.
        n_remove: about how many players are to be removed, at most; None if only contributions are wanted.
        parts: estimator, selector, executor and post-pruning steps.
        targets: how much is to be removed, each a cut of its own.
        latencies: of the players, if a target needed them.
    """

    recipe: Recipe
    host: Host
    loaded: LoadedModel
    adapter: Adapter
    calibration: Calibration
    held_out: Calibration
    game: ModelGame
    finals: tuple[ModelGame, ...]
    mended: MendedGame | None
    n_remove: int | None
    parts: Parts
    targets: tuple[Target, ...] = ()
    latencies: PlayerLatencies | None = None

    def original(self) -> nn.Module:
        """The whole model, loaded and canonicalised anew."""
        return self.adapter.canonicalise(_load(self.recipe, self.host).model)

    def windows(self, length: int) -> Tensor:
        """All windows of that many tokens of the calibration text, shape (windows, length)."""
        return all_windows(self.recipe.calibration, self.loaded.tokenizer, length)

    def step_inputs(self, plan: RemovalPlan) -> dict[str, Any]:
        """What decides the results of post-pruning steps beside the steps themselves, as plain data."""
        return {
            "removed": plan.removed,
            "granularity": plan.granularity,
            "model": self.game.model_fingerprint,
            "text": self.calibration.fingerprint,
            "seed": self.recipe.seed,
        }


def prepare(recipe: Recipe, host: Host, *, target: bool, run_directory: Path | None = None) -> Session:
    """Load the model and the text, and check that everything asked for can be done.

    Args:
        recipe: what is asked for.
        host: the plugins.
        target: whether the recipe must say how much to remove; if it does without a must, that is a hint.
        run_directory: where an earlier start may have left what it measured of the players' latency.

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
        recipe.require_target(facts.depth)
    loaded = _load(recipe, host)
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
    watch = Stopwatch(adapter, game, recipe.seed, run_directory)
    targets = prepare_targets(recipe, game, watch) if target else ()
    for _, step in parts.steps:
        step.check(game.model, adapter)
        step_windows(recipe, loaded.tokenizer, step)
    finals = () if recipe.mend_finalists else final_games(recipe, loaded.tokenizer, game)
    if not finals and not recipe.mend_finalists:
        recipe = recipe.model_copy(update={"finalist_samples": 0})
    return Session(
        recipe=recipe,
        host=host,
        loaded=loaded,
        adapter=adapter,
        calibration=calibration,
        held_out=held_out_windows(recipe, loaded.tokenizer),
        game=game,
        finals=finals,
        mended=_mended_game(recipe, parts, loaded.tokenizer, game) if recipe.mend_finalists else None,
        n_remove=max((each.typical_size() for each in targets), default=None),
        parts=parts,
        targets=targets,
        latencies=watch.found,
    )


def _load(recipe: Recipe, host: Host) -> LoadedModel:
    return load(
        recipe.model,
        device=recipe.device,
        trust_remote_code=recipe.trust_remote_code,
        offload=recipe.offload,
        formats=checkpoint_formats(host),
    )


def _mended_game(recipe: Recipe, parts: Parts, tokenizer: Any, game: ModelGame) -> MendedGame:
    """The game of models that are mended by the recipe's steps of the first stage, in their own format."""
    windows = load_windows(recipe, tokenizer, recipe.finalist_samples, recipe.seed + 1)
    return MendedGame(
        game.on(windows.input_ids, dtype=game.own_dtype, fuse=False),
        [(spec, step) for spec, step in parts.steps if step.stage == "compensate"],
        partial(all_windows, recipe.calibration, tokenizer),
        recipe.seed,
    )
