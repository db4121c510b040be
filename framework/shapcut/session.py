"""A recipe made ready: whatever can be refused is refused here, before the first evaluation."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from shapcut.adapter import Adapter
from shapcut.arithmetic import fusing_pays
from shapcut.block_latency import BlockLatencies, block_latencies
from shapcut.calibration import (
    Calibration,
    all_windows,
    check_size,
    check_source,
    load_calibration,
    load_held_out,
)
from shapcut.errors import InputError
from shapcut.estimators import Estimator
from shapcut.executor import Executor
from shapcut.game import Game
from shapcut.gamerecipe import GameOrigin
from shapcut.host import Host, checkpoint_formats, select_adapter
from shapcut.loading import LoadedModel, inspect_source, load
from shapcut.mended import MendedGame
from shapcut.modelgame import ModelGame
from shapcut.permitted import require_permitted
from shapcut.plan import RemovalPlan
from shapcut.postprocess import PostProcessor
from shapcut.quantized import is_quantized
from shapcut.recipe import Recipe
from shapcut.run import Run
from shapcut.sampling import removable
from shapcut.selection import Selector, require_removable
from shapcut.steps import check_order
from shapcut.target import Target
from shapcut.targets import make_targets
from shapcut.utilities import Utility

_FINAL_PARTS = 8


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
    latencies: BlockLatencies | None = None

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


def make_parts(recipe: Recipe, host: Host) -> Parts:
    """Look up and make what the recipe names.

    Raises:
        InputError: on an unknown name or option, or steps in an order that makes no sense.
    """
    options = {} if recipe.sampler is None else {"sampler": host.samplers.create(recipe.sampler)}
    steps = tuple((spec, host.postprocessors.create(spec)) for spec in recipe.then)
    check_order(steps)
    if recipe.mend_finalists and (
        recipe.finalist_samples == 0 or "compensate" not in {s.stage for _, s in steps}
    ):
        raise InputError(
            "--mend-finalists needs finalist samples and a step that compensates, such as --then compensate"
        )
    return Parts(
        estimator=host.estimators.create(recipe.estimator, **options),
        selector=host.selectors.create(recipe.selector),
        utility=host.utilities.create(recipe.utility),
        executor=host.executors.create(recipe.executor),
        steps=steps,
    )


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
        step.check_on(game.model, adapter)
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


def check_target(game: Game, n_remove: int, seed: int) -> None:
    """Check that a game can lose so many players.

    Raises:
        InputError: otherwise.
    """
    require_removable(game.players, n_remove)
    rng = np.random.default_rng(seed)
    require_permitted(removable(game.players).tolist(), n_remove, game.permits, rng)


@dataclass(slots=True)
class Stopwatch:
    """Measures the players' latency when it is first asked, if no earlier start of the run has.

    Attributes:
        adapter: the model's adapter.
        game: whose model and players are timed.
        seed: of the prompt.
        run_directory: of the run, or None.
        found: what was measured, or None if nobody has asked.
    """

    adapter: Adapter
    game: ModelGame
    seed: int
    run_directory: Path | None
    found: BlockLatencies | None = None

    def measure(self) -> BlockLatencies:
        """The latencies, those of an earlier start if there are any."""
        model, granularity = self.game.model, self.game.granularity
        fingerprint = self.game.model_fingerprint
        if self.found is None and self.run_directory is not None:
            self.found = BlockLatencies.read(Run(self.run_directory).latencies, fingerprint, granularity)
        if self.found is None:
            found = block_latencies(self.adapter, model, self.game.players, granularity, seed=self.seed)
            self.found = found.model_copy(update={"model_fingerprint": fingerprint})
        return self.found


def prepare_targets(recipe: Recipe, game: ModelGame, watch: Stopwatch) -> tuple[Target, ...]:
    """The recipe's targets; for each a set that may be removed was found.

    Raises:
        InputError: if one cannot be reached.
    """
    recipe.require_target(game.n_players)
    targets = make_targets(recipe, game.players, game.model, watch.measure)
    check_targets(targets, game, recipe.seed)
    return targets


def check_targets(targets: Sequence[Target], game: Game, seed: int) -> None:
    """Check that for each target a set was found that may be removed.

    Raises:
        InputError: otherwise.
    """
    rng = np.random.default_rng(seed)
    for target in targets:
        if target.is_count:
            number = round(target.needed)
            if target.text == f"{number} players":
                check_target(game, number, seed)
                continue
        target.require_permitted(game.permits, rng)


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


def _mended_game(recipe: Recipe, parts: Parts, tokenizer: Any, game: ModelGame) -> MendedGame:
    """The game of models that are mended by the recipe's steps of the first stage, in their own format."""
    windows = load_windows(recipe, tokenizer, recipe.finalist_samples, recipe.seed + 1)
    return MendedGame(
        game.on(windows.input_ids, dtype=game.own_dtype, fuse=False),
        [(spec, step) for spec, step in parts.steps if step.stage == "compensate"],
        partial(all_windows, recipe.calibration, tokenizer),
        recipe.seed,
    )
