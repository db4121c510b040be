"""Forecast a run from the model's config, without reading weights or downloading anything."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from shapcut.data.windows import check_size, check_source
from shapcut.game.budget import capped_budget
from shapcut.game.coalitions import CoalitionMatrix, Player
from shapcut.game.game import Game, Measurements
from shapcut.game.target import Target
from shapcut.host.host import Host, select_adapter
from shapcut.host.open_model import find_model
from shapcut.models.adapter import Adapter
from shapcut.models.loading import choose_device, load, model_without_weights
from shapcut.models.quantization import is_quantized
from shapcut.models.source import inspect_source, read_config
from shapcut.pipeline.footprint import Footprint, advice, footprint
from shapcut.pipeline.parts import make_parts
from shapcut.pipeline.targets import check_target, make_targets
from shapcut.pipeline.throughput import THROUGHPUT
from shapcut.recipe.recipe import Recipe
from shapcut.steps.runner import check_order
from shapcut.support.errors import InputError, ShapcutError
from shapcut.support.quiet import one_line, quiet_libraries
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
        coalitions: maximum number of evaluated coalitions.
        tokens_per_coalition: calibration tokens.
        dtype: number format of the evaluation.
        blocks_per_coalition: assumed number of players present in a coalition.
        operations: floating-point operations of all coalitions without shared prefixes.
        throughput: assumed operations per second.
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
    coalitions: int
    tokens_per_coalition: int
    dtype: str
    blocks_per_coalition: int
    operations: float
    throughput: float
    memory: Footprint
    advice: str

    @property
    def tokens(self) -> int:
        """Maximum number of processed tokens."""
        return self.coalitions * self.tokens_per_coalition

    @property
    def seconds(self) -> float:
        """Estimated time at the assumed throughput."""
        return self.operations / self.throughput

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self) | {"tokens": self.tokens, "seconds": self.seconds}


class _Shape(Game):
    """A game without values: its players, and the sets that may be removed."""

    def __init__(self, model: nn.Module, adapter: Adapter, recipe: Recipe) -> None:
        self.model, self.adapter, self.granularity = model, adapter, recipe.granularity
        self._players = adapter.players(model, recipe.granularity)

    @property
    def players(self) -> tuple[Player, ...]:
        return self._players

    def permits(self, absent: Sequence[int]) -> bool:
        return self.adapter.can_remove(self.model, absent, self.granularity) is None

    def measurements(self, coalitions: CoalitionMatrix) -> Measurements:
        raise TypeError(f"{len(coalitions)} coalitions of a model without weights have no values")


def forecast(recipe: Recipe, host: Host, *, target: bool, throughput: float = THROUGHPUT) -> Forecast:
    """Check a recipe and forecast its run, without downloading, writing or running anything.

    Checks that need the weights, the tokenizer or the text are left to the run: whether the text is long
    enough, and whether a step works on this architecture.

    Args:
        recipe: the recipe.
        host: the plugins.
        target: whether the recipe must have a target.
        throughput: assumed throughput of the device in TFLOP/s.

    Raises:
        InputError: if the recipe is invalid, or the model's config is not available locally.
    """
    if not 0.0 < throughput < float("inf"):
        raise InputError(f"--throughput {throughput} is not a positive number of TFLOP/s")
    parts = make_parts(recipe, host)
    parts.executor.check()
    check_source(recipe.calibration)
    device = choose_device(recipe.device)
    model, from_config = _described(recipe, host, parts.steps)
    adapter = select_adapter(host, model)
    shape = _Shape(adapter.canonicalise(model), adapter, recipe)
    targets = _targets(recipe, shape) if target or recipe.has_target else ()
    removable = sum(player.removable for player in shape.players)
    n_remove = max((each.typical_size() for each in targets), default=None)
    present = shape.n_players - (n_remove or max(2, removable // 4))
    own = next(weight.dtype for weight in shape.model.parameters() if weight.is_floating_point())
    kept = is_quantized(shape.model) or recipe.offload != "off"
    dtype = own if kept and recipe.dtype == "auto" else evaluation_dtype(recipe.dtype, own, device)
    memory = footprint(recipe, shape.model, shape.players, device, (own, dtype))
    tokens = recipe.samples * recipe.sequence_length
    budget = capped_budget(recipe.budget, shape.players)
    mean_block = sum(player.parameters for player in shape.players) / shape.n_players
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
        steps=recipe.then,
        coalitions=budget,
        tokens_per_coalition=tokens,
        dtype=_name(dtype),
        blocks_per_coalition=present,
        operations=2.0 * (present * mean_block + _readout_size(shape.model)) * tokens * budget,
        throughput=throughput * 1e12,
        memory=memory,
        advice=advice(recipe, memory, from_config=from_config),
    )


def _described(recipe: Recipe, host: Host, steps: Any) -> tuple[nn.Module, bool]:
    """The model without weights, or with them if its format has no config."""
    source = find_model(
        host,
        recipe.model,
        device="cpu",
        trust_remote_code=recipe.trust_remote_code,
        offline=True,
        revision=recipe.revision,
        text_only=recipe.text_only,
    )
    location = source.location
    facts = inspect_source(source)
    check_order(steps, facts.quantization)
    check_size(recipe.samples, recipe.sequence_length, facts.max_length)
    if location.format is not None:
        return load(source).model, False
    config = read_config(location, recipe.trust_remote_code)
    dtype = torch.float32 if location.gguf_file is not None else None
    try:
        with quiet_libraries():
            return model_without_weights(config, recipe.trust_remote_code, dtype).eval(), True
    except ShapcutError:
        raise
    except Exception as error:
        raise InputError(f"the config of {recipe.model} describes no model: {one_line(error)}") from error


def _targets(recipe: Recipe, shape: _Shape) -> tuple[Target, ...]:
    """The recipe's targets; none for a speed, which requires measured latencies."""
    recipe.require_target(shape.n_players)
    if recipe.speedup is not None:
        return ()
    targets = make_targets(recipe, shape.players, shape.model, _no_latencies)
    for target in targets:
        check_target(target, shape, recipe.seed)
    return targets


def _no_latencies() -> Any:
    raise TypeError("without weights there are no latencies")


def _readout_size(model: nn.Module) -> int:
    """Parameters of the last linear map, if the model names it."""
    head: Any = getattr(model, "get_output_embeddings", lambda: None)()
    return 0 if head is None else int(head.weight.numel())


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
