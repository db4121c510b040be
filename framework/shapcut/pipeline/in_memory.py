"""Prune a model that is in memory."""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from torch import nn

from shapcut.game.contributions import Contributions
from shapcut.game.plan import RemovalPlan
from shapcut.host.host import Host, select_adapter
from shapcut.host.open_model import OpenModel
from shapcut.measurement.paired_accuracy import PairedDifference, paired_differences
from shapcut.measurement.record import ModelMeasurement
from shapcut.models.location import Location, saved_in
from shapcut.models.source import ModelSource
from shapcut.pipeline.cut import measure_cut, measure_original, remove, require_removal
from shapcut.pipeline.prune import require_one_target
from shapcut.pipeline.result import outcome_table, outcome_text
from shapcut.pipeline.score import Scoring
from shapcut.pipeline.session import prepare
from shapcut.recipe.recipe import Recipe
from shapcut.support.errors import InputError
from shapcut.support.progress import Reporter, Silent
from shapcut.support.run_directory import open_run

ResultT = TypeVar("ResultT")

IN_MEMORY = "in-memory"


@dataclass(frozen=True, eq=False, slots=True)
class PrunedModel:
    """A model that was pruned in memory.

    Attributes:
        model: the pruned model; the one that was given must not be used any more.
        plan: the plan that was applied.
        contributions: of all players.
        before: figures of the original.
        after: figures of the pruned model.
    """

    model: nn.Module
    plan: RemovalPlan
    contributions: Contributions
    before: ModelMeasurement
    after: ModelMeasurement

    @property
    def differences(self) -> tuple[PairedDifference, ...]:
        """Differences between the accuracies of both models on the same questions."""
        return paired_differences(self.before.tasks, self.after.tasks)

    def __str__(self) -> str:
        return outcome_text(self.plan, self.before, self.after)

    def _repr_html_(self) -> str:
        return outcome_table(self.plan, self.before, self.after)


def prune_in_memory(
    recipe: Recipe,
    model: nn.Module,
    tokenizer: Any,
    host: Host,
    *,
    run: Path | None = None,
    reporter: Reporter | None = None,
) -> PrunedModel:
    """Score, select and remove; the model is changed in place.

    Args:
        recipe: with one target and no steps; its model is only a name.
        model: the model, in evaluation mode.
        tokenizer: its tokenizer.
        host: the plugins.
        run: directory for the evaluations; None keeps none.
        reporter: reports progress.

    Raises:
        InputError: if the recipe cannot be carried out in memory.
    """
    require_one_target(recipe)
    reporter = reporter or Silent()
    if model.training:
        raise InputError("the model is in training mode: call model.eval() first")
    if recipe.then or recipe.mend:
        step = f"--then {recipe.then[0]}" if recipe.then else "mend"
        raise InputError(f"{step} needs a checkpoint: name a directory with out=")
    adapter = select_adapter(host, model)
    source = ModelSource(Location(IN_MEMORY, IN_MEMORY), recipe.device)
    opened = OpenModel(adapter.canonicalise(model), tokenizer, adapter, source)
    session = prepare(recipe, host, target=True, opened=opened)
    with tempfile.TemporaryDirectory() as temporary, open_run(run or Path(temporary) / "run") as kept:
        with Scoring(session, kept, reporter) as scoring:
            contributions = scoring.estimate()
            plan = scoring.choose(contributions)
            scoring.manifest.finish()
        require_removal(session, plan)
        before = measure_original(session, reporter)
        cut = remove(session, plan)
        after = measure_cut(session, cut, reporter)
    return PrunedModel(cut.model, plan, contributions, before, after)


def with_saved_model(
    model: nn.Module, tokenizer: Any, host: Host, use: Callable[[str], ResultT], beside: Path
) -> ResultT:
    """Call ``use`` with the source of the model's checkpoint, which exists as long.

    Args:
        model: the model.
        tokenizer: its tokenizer.
        host: the plugins.
        use: what to do with the source, ``in-memory:CLASS``.
        beside: the temporary directory appears beside this path.
    """
    adapter = select_adapter(host, model)
    place = beside.absolute().parent
    place.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=place, prefix=".shapcut-original-") as temporary:
        directory = Path(temporary) / type(model).__name__
        directory.mkdir()
        adapter.save(model, directory)
        tokenizer.save_pretrained(directory)
        with saved_in(directory, directory.name) as source:
            return use(source)
