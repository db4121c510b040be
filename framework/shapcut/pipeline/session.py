"""Prepare a recipe for its run; invalid requests are refused here, before the first evaluation."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from shapcut.data.mixture import check_other_texts
from shapcut.data.windows import Calibration, check_size, check_source
from shapcut.game.budget import capped_budget
from shapcut.game.coalitions import Player
from shapcut.game.plan import RemovalPlan
from shapcut.game.target import Target
from shapcut.host.host import Host
from shapcut.host.open_model import OpenModel, find_model, open_model
from shapcut.measurement.lm_eval_tasks import Harness
from shapcut.measurement.player_latency import PlayerLatencies
from shapcut.models.adapter import Adapter
from shapcut.models.gguf_reader import parsed_once
from shapcut.models.quantization import is_quantized, quantization_method
from shapcut.models.source import ModelSource, inspect_source, read_config
from shapcut.pipeline.mending import with_mending
from shapcut.pipeline.parts import Parts, check_players, make_parts
from shapcut.pipeline.targets import Stopwatch, prepare_targets
from shapcut.pipeline.windows import RunText, final_games
from shapcut.recipe.recipe import Recipe
from shapcut.steps.compensated_game import MendedGame
from shapcut.steps.runner import check_order
from shapcut.support.errors import InputError
from shapcut.support.progress import Reporter, Silent
from shapcut.valuation.game_spec import GameOrigin
from shapcut.valuation.model_game import ModelGame
from shapcut.valuation.precision import fusing_pays
from shapcut.valuation.utilities import bound_utility

_VALUES_ONLY = frozenset({"compensate", "heal"})
"""Stages whose steps change values, not number formats."""


@dataclass(frozen=True, slots=True)
class Session:
    """A loaded model, its game and the other objects of a run.

    Attributes:
        recipe: the recipe, without finalist samples if the text is too short for them.
        host: the plugins.
        opened: the model with its tokenizer, adapter and source.
        text: the run's text.
        calibration: windows that coalitions are measured on.
        held_out: windows of held-out text.
        others: windows of other texts to judge on.
        game: the game on ``calibration``.
        finals: the game on further windows of the text, in equal parts, to compare finalists.
        mended: the game of compensated models on all those windows, if the recipe compares finalists by it.
        parts: estimator, selector, executor and post-pruning steps, those of the recipe and the run's own.
        targets: the targets, one per cut.
        latencies: latencies of the players, if a target needs them.
        harness: the tasks to ask the models, or None.
    """

    recipe: Recipe
    host: Host
    opened: OpenModel
    text: RunText
    calibration: Calibration
    held_out: Calibration
    others: tuple[Calibration, ...]
    game: ModelGame
    finals: tuple[ModelGame, ...]
    mended: MendedGame | None
    parts: Parts
    targets: tuple[Target, ...] = ()
    latencies: PlayerLatencies | None = None
    harness: Harness | None = None

    @property
    def adapter(self) -> Adapter:
        """The model's adapter."""
        return self.opened.adapter

    @property
    def keeps_format(self) -> bool:
        """Whether what is written has the original's number formats: nothing asked for changes them."""
        stages = {step.stage for _, step in self.parts.steps}
        return stages <= _VALUES_ONLY and self.recipe.dtype == "auto" and not self.recipe.text_only

    @property
    def n_remove(self) -> int | None:
        """Approximate number of players to remove in the largest cut; None without a target."""
        return max((target.typical_size() for target in self.targets), default=None)

    @property
    def steps(self) -> tuple[str, ...]:
        """The post-pruning steps, in order, each in its text form."""
        return tuple(spec for spec, _ in self.parts.steps)

    def original(self) -> nn.Module:
        """The whole model, loaded again."""
        return open_model(self.host, self.opened.source).model

    def with_fresh_model(self) -> "Session":
        """The session with the model loaded again, because applying a plan changes the model."""
        opened = open_model(self.host, self.opened.source)
        return replace(self, opened=opened, game=self.game.with_model(opened.model))

    def step_inputs(self, plan: RemovalPlan) -> dict[str, Any]:
        """Everything except the steps that determines their results, as plain data."""
        return {
            "removed": plan.removed,
            "granularity": plan.granularity,
            "game": self.game.fingerprint(),
            "text": self.text.digest(),
            "samples": self.recipe.samples,
            "sequence_length": self.recipe.sequence_length,
            "seed": self.recipe.seed,
        }


def prepare(
    recipe: Recipe,
    host: Host,
    *,
    target: bool,
    run_directory: Path | None = None,
    reporter: Reporter | None = None,
    opened: OpenModel | None = None,
) -> Session:
    """Open the model and the text, and check the whole recipe.

    Args:
        recipe: the recipe.
        host: the plugins.
        target: whether the recipe must have a target, to cut the model; otherwise a target is a hint to the
            estimator.
        opened: the model, if it is loaded; None: the recipe's.
        run_directory: directory in which an earlier start may have stored player latencies.
        reporter: reports progress; None: nothing.

    Raises:
        InputError: with the first problem; cheap checks come before loading weights.
    """
    cuts, target = target, target or recipe.has_target
    parts = make_parts(recipe, host)
    if recipe.form == "remote-code" and parts.quantizes:
        raise InputError(
            "--form remote-code: quantizers do not know the modelling file; leave out the step that quantizes"
        )
    for caveat in parts.caveats:
        (reporter or Silent()).say(caveat)
    harness = Harness.asked(recipe.tasks, data=recipe.task_data, limit=recipe.limit)
    opened = opened or _opened(recipe, host, parts, target=target)
    reporter = reporter or Silent()
    text = RunText.of(recipe.calibration, opened, recipe.sequence_length, recipe.seed, reporter)
    parts, not_mended = with_mending(parts, recipe, host, opened) if cuts else (parts, "")
    calibration = text.calibration(recipe.samples)
    require_vocabulary(opened, calibration)
    game = _game(recipe, opened, parts, calibration)
    check_players(parts, game.players)
    watch = Stopwatch(opened.adapter, game, recipe.seed, run_directory)
    targets = prepare_targets(recipe, game, watch) if target else ()
    for _, step in parts.steps:
        step.check(game.model, opened.adapter)
        text.for_step(step, recipe.samples)
    finals, mended = _finals(recipe, parts, text, game)
    if not_mended:
        reporter.say(not_mended)
    if not finals and mended is None:
        recipe = recipe.model_copy(update={"finalist_samples": 0})
    return Session(
        recipe=recipe,
        host=host,
        opened=opened,
        text=text,
        calibration=calibration,
        held_out=text.held_out(recipe.held_out_samples),
        others=text.others(recipe.judge_on, recipe.held_out_samples),
        game=game,
        finals=finals,
        mended=mended,
        parts=parts,
        targets=targets,
        latencies=watch.found,
        harness=harness,
    )


def _opened(recipe: Recipe, host: Host, parts: Parts, *, target: bool) -> OpenModel:
    """Load the recipe's model, after all checks that need no weights."""
    with parsed_once(recipe.model.lower().endswith(".gguf")):
        opened = open_model(host, _checked_source(recipe, host, parts, target=target))
    if target:
        require_cut_as_files(opened)
    return opened


def _checked_source(recipe: Recipe, host: Host, parts: Parts, *, target: bool) -> ModelSource:
    """Find the model and run all checks that need no weights."""
    parts.executor.check()
    check_source(recipe.calibration, own=True)
    check_other_texts(recipe.judge_on)
    source = find_model(
        host,
        recipe.model,
        device=recipe.device,
        trust_remote_code=recipe.trust_remote_code,
        offload=recipe.offload,
        revision=recipe.revision,
        text_only=recipe.text_only,
    )
    facts = inspect_source(source)
    check_order(parts.steps, facts.quantization)
    for _, step in parts.steps:
        step.check_source(source.location.weights)
    check_size(recipe.samples, recipe.sequence_length, facts.max_length)
    if target and facts.depth and recipe.granularity == "block":
        recipe.require_target(facts.depth)
    return source


def require_cut_as_files(opened: OpenModel) -> None:
    """Refuse a quantized checkpoint whose files cannot be cut: its weights in memory are not as stored.

    Raises:
        InputError: with the reason.
    """
    location = opened.source.location
    directory = location.directory
    if (
        directory is None
        or quantization_method(read_config(location, opened.source.trust_remote_code)) is None
    ):
        return
    if objection := opened.adapter.files_objection(opened.model, directory):
        raise InputError(
            f"{opened.source_name} is quantized and cannot be cut in its own format: {objection}; "
            "take a checkpoint in full precision"
        )


def require_vocabulary(opened: OpenModel, windows: Calibration) -> None:
    """Refuse a tokenizer whose tokens exceed the model's vocabulary.

    Raises:
        InputError: with the largest token.
    """
    embedding: Any = getattr(opened.model, "get_input_embeddings", lambda: None)()
    known, largest = getattr(embedding, "num_embeddings", None), int(windows.input_ids.max())
    if known is not None and largest >= known:
        raise InputError(
            f"the tokenizer of {opened.source_name} gives token {largest}, but the model has {known}; "
            "put the model's own tokenizer beside its weights"
        )


def _game(recipe: Recipe, opened: OpenModel, parts: Parts, calibration: Calibration) -> ModelGame:
    players = opened.adapter.players(opened.model, recipe.granularity)
    utility = bound_utility(parts.utility, opened.adapter, opened.tokenizer)
    return ModelGame(
        opened.model,
        opened.adapter,
        calibration.input_ids,
        utility=utility,
        granularity=recipe.granularity,
        form=recipe.form,
        dtype=recipe.dtype,
        memory_budget=recipe.memory_budget,
        fuse=fuses(
            recipe.compile, opened, players, calibration.n_tokens * capped_budget(recipe.budget, players)
        ),
        sequences_per_step=recipe.batch_size,
        sampled=recipe.vocabulary == "sampled",
        origin=GameOrigin(
            recipe.model,
            recipe.utility,
            recipe.trust_remote_code,
            recipe.offload,
            recipe.revision,
            recipe.text_only,
        ),
    )


def fuses(choice: str, opened: OpenModel, players: Sequence[Player], tokens: int) -> bool:
    """Whether to evaluate with fused kernels; depends on the workload, not on measured time.

    Args:
        choice: ``on``, ``off``, or ``auto``: if compilation pays.
        opened: the model.
        players: the model's players.
        tokens: maximum number of tokens over all coalitions.
    """
    if choice != "auto":
        return choice == "on"
    if is_quantized(opened.model):
        return False
    parameters = sum(player.parameters for player in players)
    return fusing_pays(opened.adapter.input_device(opened.model), 2.0 * parameters * tokens)


def _finals(
    recipe: Recipe, parts: Parts, text: RunText, game: ModelGame
) -> tuple[tuple[ModelGame, ...], MendedGame | None]:
    """The games to compare finalists in: on parts of further text, or of compensated models on all of it."""
    if not recipe.mend_finalists:
        required = "finalist_samples" in recipe.model_fields_set
        return final_games(text, recipe.finalist_samples, game, required=required), None
    windows = text.finals(recipe.finalist_samples)
    mended = MendedGame(
        game.on(windows.input_ids, dtype=game.own_dtype, fuse=False),
        [(spec, step) for spec, step in parts.steps if step.stage == "compensate"],
        text.whole,
        recipe.seed,
        texts=text.by_source,
    )
    return (), mended
