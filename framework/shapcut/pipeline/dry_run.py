"""Forecast a run from the model's config, without downloading anything."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from shapcut.data.mixture import check_other_texts
from shapcut.data.windows import check_size, check_source
from shapcut.game.budget import capped_budget
from shapcut.game.coalitions import CoalitionMatrix, Player
from shapcut.game.game import Game, Measurements
from shapcut.game.groups import Groups
from shapcut.game.target import Target
from shapcut.host.host import Host, select_adapter
from shapcut.host.open_model import find_model
from shapcut.models.adapter import Adapter
from shapcut.models.forms import chosen_form, remnants_of_players
from shapcut.models.loading import choose_device, load
from shapcut.models.quantization import is_quantized
from shapcut.models.source import ModelSource, inspect_source
from shapcut.pipeline.footprint import Footprint, advice, footprint, state_width
from shapcut.pipeline.inspection import described_model
from shapcut.pipeline.mending import planned_steps
from shapcut.pipeline.parts import check_players, make_parts
from shapcut.pipeline.shared_work import SharedWork, shared_work
from shapcut.pipeline.targets import check_target, checkpoint_size, make_targets
from shapcut.pipeline.throughput import Throughput, loaded_model, product_throughput, stack_throughput
from shapcut.recipe.recipe import Recipe
from shapcut.steps.runner import check_order
from shapcut.support.errors import InputError
from shapcut.support.quiet import quiet_libraries
from shapcut.valuation.precision import evaluation_dtype


@dataclass(frozen=True, slots=True)
class Cut:
    """One target.

    Attributes:
        target: in words.
        fewest: smallest number of players in a set that reaches it.
        most: largest number of players in such a set.
    """

    target: str
    fewest: int
    most: int


@dataclass(frozen=True, slots=True)
class Forecast:
    """The forecast of a run.

    Attributes:
        model: the model as the user wrote it.
        architecture: the model's class.
        adapter: name of the adapter.
        from_config: whether only the config was read, and no weights.
        parameters: number of distinct parameters of the whole model.
        players: number of players.
        removable: number of removable players.
        players_to_remove: approximate number of players to remove in the largest cut; None if unknown
            before measuring.
        cuts: the targets.
        estimator: the recipe's estimator.
        selector: the recipe's selector.
        executor: the recipe's executor.
        steps: post-pruning steps.
        caveats: what the steps say of their results.
        coalitions: maximum number of evaluated coalitions.
        tokens_per_coalition: calibration tokens.
        dtype: number format of the evaluation.
        blocks_per_coalition: assumed number of players present in a coalition.
        operations: floating-point operations of all coalitions without shared prefixes.
        least: the work of the estimator alone, if it is the default and the target is known.
        least_operations: its floating-point operations; those of all coalitions if it is unknown.
        throughput: operations per second, measured or given.
        throughput_source: how the throughput is known, in words.
        memory: the memory needed.
        advice: whether to offload weights.
    """

    model: str
    architecture: str
    adapter: str
    from_config: bool
    parameters: int
    players: int
    removable: int
    players_to_remove: int | None
    cuts: tuple[Cut, ...]
    estimator: str
    selector: str
    executor: str
    steps: tuple[str, ...]
    caveats: tuple[str, ...]
    coalitions: int
    tokens_per_coalition: int
    dtype: str
    blocks_per_coalition: int
    operations: float
    least: SharedWork | None
    least_operations: float
    throughput: float
    throughput_source: str
    memory: Footprint
    advice: str

    @property
    def tokens(self) -> int:
        """Maximum number of processed tokens."""
        return self.coalitions * self.tokens_per_coalition

    @property
    def seconds(self) -> float:
        """Time at that throughput if all of the budget is spent and no prefix is shared."""
        return self.operations / self.throughput

    @property
    def least_seconds(self) -> float:
        """Time at that throughput of the least work."""
        return self.least_operations / self.throughput

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        times = {"seconds": self.seconds, "least_seconds": self.least_seconds}
        return asdict(self) | {"tokens": self.tokens, **times}


class _Shape(Game):
    """A game without values: its players, and the sets that may be removed."""

    def __init__(self, model: nn.Module, adapter: Adapter, recipe: Recipe) -> None:
        self.model, self.adapter = model, adapter
        self.granularity, self.form = recipe.granularity, recipe.form
        self._players = adapter.players(model, recipe.granularity)

    @property
    def players(self) -> tuple[Player, ...]:
        return self._players

    def permits(self, absent: Sequence[int]) -> bool:
        return chosen_form(self.adapter, self.model, absent, self.granularity, self.form) is not None

    def measurements(self, coalitions: CoalitionMatrix) -> Measurements:
        raise TypeError(f"{len(coalitions)} coalitions of a model without weights have no values")


def _dtypes(
    recipe: Recipe, model: nn.Module, adapter: Adapter, device: torch.device
) -> tuple[torch.dtype, torch.dtype]:
    """The dtype of the weights, and that of the evaluation."""
    own = next(weight.dtype for weight in model.parameters() if weight.is_floating_point())
    kept = is_quantized(model) or recipe.offload != "off"
    if kept and recipe.dtype == "auto":
        return own, own
    return own, evaluation_dtype(recipe.dtype, own, device, partial(adapter.dtype_objection, model))


def forecast(recipe: Recipe, host: Host, *, target: bool, throughput: float | None = None) -> Forecast:
    """Check a recipe and forecast its run, without downloading or writing anything.

    Checks that need the weights, the tokenizer or the text are left to the run: whether the text is long
    enough, and whether a step works on this architecture.

    Args:
        recipe: the recipe.
        host: the plugins.
        target: whether the recipe must have a target.
        throughput: throughput of the device in TFLOP/s; None measures it for about a second, on the model's
            own blocks if its weights are here and small, else on matrix products.

    Raises:
        InputError: if the recipe is invalid, or the model's config is not available locally.
    """
    given = None if throughput is None else _given_throughput(throughput)
    parts = make_parts(recipe, host)
    parts.executor.check()
    check_source(recipe.calibration, own=True)
    check_other_texts(recipe.judge_on)
    device = choose_device(recipe.device)
    source = _checked_source(recipe, host, parts.steps)
    model, from_config = _described(source)
    adapter = select_adapter(host, model)
    shape = _Shape(adapter.canonicalise(model), adapter, recipe)
    check_players(parts, shape.players)
    targets = _targets(recipe, shape) if target or recipe.has_target else ()
    removable = sum(player.removable for player in shape.players)
    n_remove = max((each.typical_size() for each in targets), default=None)
    present = shape.n_players - (n_remove or max(2, removable // 4))
    own, dtype = _dtypes(recipe, shape.model, shape.adapter, device)
    memory = footprint(recipe, shape.model, shape.players, device, (own, dtype))
    steps, caveats = planned_steps(parts, recipe, shape.model, device)
    tokens = recipe.samples * recipe.sequence_length
    budget = capped_budget(recipe.budget, shape.players)
    mean_block = sum(player.parameters for player in shape.players) / shape.n_players
    speed = given or _measured_throughput(recipe, source, shape, device, dtype)
    operations = 2.0 * (present * mean_block + _readout_size(shape.model)) * tokens * budget
    least = shared_work(parts.estimator, shape, recipe, n_remove)
    return Forecast(
        model=recipe.model,
        architecture=type(shape.model).__name__,
        adapter=adapter.name,
        from_config=from_config,
        parameters=sum(weight.numel() for weight in shape.model.parameters()),
        players=shape.n_players,
        removable=removable,
        players_to_remove=n_remove,
        cuts=tuple(Cut(each.text, each.sizes()[0], each.sizes()[-1]) for each in targets),
        estimator=recipe.estimator,
        selector=recipe.selector,
        executor=recipe.executor,
        steps=steps,
        caveats=caveats,
        coalitions=budget,
        tokens_per_coalition=tokens,
        dtype=_name(dtype),
        blocks_per_coalition=present,
        operations=operations,
        least=least,
        least_operations=operations if least is None else _operations(least, mean_block, shape.model, tokens),
        throughput=speed.operations,
        throughput_source=speed.source,
        memory=memory,
        advice=advice(recipe, memory, from_config=from_config),
    )


def _given_throughput(throughput: float) -> Throughput:
    if not 0.0 < throughput < float("inf"):
        raise InputError(f"--throughput {throughput} is not a positive number of TFLOP/s")
    return Throughput(throughput * 1e12, "as given by --throughput")


def _measured_throughput(
    recipe: Recipe, source: ModelSource, shape: _Shape, device: torch.device, dtype: torch.dtype
) -> Throughput:
    """Measured on the model's blocks if it can be loaded at once, else on products as wide as its states."""
    plain = recipe.offload == "off" and not is_quantized(shape.model)
    model = loaded_model(source, device, checkpoint_size(shape.model)) if plain else None
    if model is not None:
        windows = (recipe.samples, recipe.sequence_length)
        with quiet_libraries():
            measured = stack_throughput(shape.adapter, model, recipe.granularity, dtype, windows)
        if measured is not None:
            return measured
    return product_throughput(
        state_width(shape.model), recipe.samples * recipe.sequence_length, dtype, device
    )


def _checked_source(recipe: Recipe, host: Host, steps: Any) -> ModelSource:
    """Find the model and run the checks that need only its config."""
    source = find_model(
        host,
        recipe.model,
        device="cpu",
        trust_remote_code=recipe.trust_remote_code,
        offline=True,
        revision=recipe.revision,
        text_only=recipe.text_only,
    )
    facts = inspect_source(source)
    check_order(steps, facts.quantization)
    for _, step in steps:
        step.check_source(source.location.weights)
    check_size(recipe.samples, recipe.sequence_length, facts.max_length)
    return source


def _described(source: ModelSource) -> tuple[nn.Module, bool]:
    """The model without weights, or with them if its format has no config."""
    location = source.location
    if location.format is not None:
        return load(source).model, False
    return described_model(source, torch.float32 if location.gguf_file is not None else None), True


def _targets(recipe: Recipe, shape: _Shape) -> tuple[Target, ...]:
    """The recipe's targets; none for a speed or the cache, which are measured."""
    recipe.require_target(shape.n_players, len(Groups.of(shape.players)))
    if recipe.speedup is not None or recipe.cache is not None:
        return ()
    remnants = remnants_of_players(shape.adapter, shape.model, shape.players, recipe.granularity, recipe.form)
    targets = make_targets(
        recipe, shape.players, shape.model, _unmeasured, caches=_unmeasured, remnants=remnants
    )
    for target in targets:
        check_target(target, shape, recipe.seed)
    return targets


def _unmeasured(*_: Any) -> Any:
    raise TypeError("without weights nothing is measured")


def _operations(least: SharedWork, mean_block: float, model: nn.Module, tokens: int) -> float:
    read = _readout_size(model) * (least.coalitions / least.part + 1)
    return 2.0 * (least.block_runs * mean_block + read) * tokens


def _readout_size(model: nn.Module) -> int:
    """Parameters of the last linear map, if the model names it."""
    head: Any = getattr(model, "get_output_embeddings", lambda: None)()
    return 0 if head is None else int(head.weight.numel())


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
