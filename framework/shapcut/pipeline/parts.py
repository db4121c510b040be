"""The objects that a recipe names."""

from collections.abc import Sequence
from dataclasses import dataclass

from shapcut.estimators.base import Estimator, require_handles_players
from shapcut.game.coalitions import Player
from shapcut.host.host import Host
from shapcut.recipe.recipe import Recipe
from shapcut.selection.base import Selector
from shapcut.steps.runner import Steps, check_order
from shapcut.steps.step import PostProcessor
from shapcut.support.errors import InputError
from shapcut.valuation.executor import Executor
from shapcut.valuation.utilities import TokenizedUtility, Utility


@dataclass(frozen=True, slots=True)
class Parts:
    """The objects named by a recipe."""

    estimator: Estimator
    selector: Selector
    utility: Utility | TokenizedUtility
    executor: Executor
    steps: tuple[tuple[str, PostProcessor], ...]

    @property
    def quantizes(self) -> bool:
        """Whether a step quantizes the weights."""
        return any(step.gives_quantized for _, step in self.steps)

    @property
    def caveats(self) -> tuple[str, ...]:
        """What the steps say of their results before the run."""
        return tuple(f"--then {spec}: {caveat}" for spec, step in self.steps for caveat in step.caveats)


def mends(steps: Steps) -> bool:
    """Whether a step compensates."""
    return any(step.stage == "compensate" for _, step in steps)


def check_players(parts: Parts, players: Sequence[Player]) -> None:
    """Refuse a method that does not work for these players.

    Raises:
        InputError: naming it.
    """
    require_handles_players(players, "estimator", parts.estimator)
    require_handles_players(players, "selector", parts.selector)


def make_parts(recipe: Recipe, host: Host) -> Parts:
    """Create the objects that a recipe names.

    Raises:
        InputError: if a name or option is unknown, or the order of the steps is impossible.
    """
    options = {} if recipe.sampler is None else {"sampler": host.samplers.create(recipe.sampler)}
    steps = tuple((spec, host.postprocessors.create(spec)) for spec in recipe.then)
    check_order(steps)
    for spec, step in steps:
        if step.whole_blocks and recipe.granularity != "block":
            raise InputError(f"--then {spec} needs --granularity block, not {recipe.granularity}")
    if recipe.mend_finalists and (recipe.finalist_samples == 0 or not (recipe.mend or mends(steps))):
        raise InputError("--mend-finalists needs finalist samples, and --mend or a step that compensates")
    return Parts(
        estimator=host.estimators.create(recipe.estimator, **options),
        selector=host.selectors.create(recipe.selector),
        utility=host.utilities.create(recipe.utility),
        executor=host.executors.create(recipe.executor),
        steps=steps,
    )
