"""Several cuts from one run: one estimation, then a plan and a checkpoint per target."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shapcut.game.contributions import Contributions
from shapcut.game.plan import RemovalPlan
from shapcut.host.host import Host
from shapcut.pipeline.cut import carry_out, measure_original
from shapcut.pipeline.manifest import finish_run
from shapcut.pipeline.output import is_gguf_output, require_gguf_recipe
from shapcut.pipeline.prune import default_run_directory
from shapcut.pipeline.result import read_result
from shapcut.pipeline.score import Scoring
from shapcut.pipeline.session import prepare
from shapcut.recipe.recipe import Recipe
from shapcut.support.errors import InputError
from shapcut.support.files import require_new_directory
from shapcut.support.html_table import html_table
from shapcut.support.live_page import live_page
from shapcut.support.progress import Reporter, Silent
from shapcut.support.run_directory import Run, open_run, require_run_directory


@dataclass(frozen=True, slots=True)
class SeriesResult:
    """The result of several cuts.

    Attributes:
        results: `PruneResult.to_json` by label, such as ``ratio-0.1``; smallest cut first.
        full_value: the value of the whole model, if known.
    """

    results: dict[str, dict[str, Any]]
    full_value: float | None

    def curve(self) -> list[dict[str, Any]]:
        """Value and perplexity by number of removed players, the whole model first."""
        dense = next(iter(self.results.values()))["dense"]
        points = [_point("dense", 0, self.full_value, dense)]
        for label, result in self.results.items():
            plan = result["plan"]
            points.append(_point(label, len(plan["removed"]), plan["measured_value"], result["pruned"]))
        return points

    def _repr_html_(self) -> str:
        rows = [
            (
                each["target"],
                each["removed"],
                f"{float(each['held_out_perplexity']):.2f}",
                f"{each['parameters']:,}",
            )
            for each in self.curve()
        ]
        return html_table("cuts", ("target", "removed", "held-out perplexity", "parameters"), rows)

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {"results": self.results, "curve": self.curve()}


def prune_series(
    recipe: Recipe,
    out: Path,
    host: Host,
    *,
    run_directory: Path | None = None,
    reporter: Reporter | None = None,
) -> SeriesResult:
    """Prune a model to each of the recipe's targets, into ``out/LABEL``; all cuts share one budget.

    A resumed run repeats no stored evaluation and no finished cut.

    Raises:
        InputError: if the recipe cannot be carried out.
        VerificationError: if a written checkpoint does not behave as the bypassed original.
    """
    reporter = reporter or Silent()
    directory = run_directory or default_run_directory(out)
    if is_gguf_output(out):
        require_gguf_recipe(recipe, out)
    require_run_directory(directory)
    finished = _finished(recipe, out, Run(directory))
    session = prepare(recipe, host, target=True, run_directory=directory, reporter=reporter)
    with (
        open_run(directory) as run,
        live_page(run.live, reporter, f"pruning {recipe.model}") as page,
        Scoring(session, run, page) as scoring,
    ):
        contributions = scoring.estimate()
        plans = choose_all(scoring, contributions)
        results: dict[str, dict[str, Any]] = {}
        before = None if len(finished) == len(plans) else measure_original(session, page)
        for label, plan in plans.items():
            if label in finished:
                results[label] = _same_plan(finished[label], plan, out / label)
                continue
            page.say(f"cutting to {label}")
            result = carry_out(
                session.with_fresh_model(), plan, out / label, run, page,
                command=scoring.manifest.command, before=before, kept_as=run.result_of(label),
            )  # fmt: skip
            results[label] = result.to_json()
        series = SeriesResult(results, contributions.full_value)
        finish_run(host, run, scoring.manifest, series=series.to_json())
        return series


def choose_all(scoring: Scoring, contributions: Contributions) -> dict[str, RemovalPlan]:
    """Choose a plan per target, smallest cut first; cuts share the remaining budget evenly.

    For nested cuts the largest is chosen first, and each smaller one is a subset of it.
    """
    targets = sorted(scoring.session.targets, key=lambda target: target.needed, reverse=True)
    nested, plans = scoring.session.recipe.nested, dict[str, RemovalPlan]()
    for done, target in enumerate(targets):
        wanted = target
        if nested and plans:
            wanted = target.within(list(plans.values())[-1].removed)
        plans[target.label] = scoring.choose(contributions, wanted, share=1.0 / (len(targets) - done))
    return dict(reversed(plans.items()))


def _finished(recipe: Recipe, out: Path, run: Run) -> dict[str, dict[str, Any]]:
    """The results of cuts that an earlier start finished.

    Raises:
        InputError: if the directory of a cut holds anything else.
    """
    finished = {}
    if not out.exists():
        require_new_directory(out)
    for label in recipe.target_labels():
        place = out / label
        if place.exists() and run.result_of(label).is_file():
            finished[label] = read_result(run.result_of(label)).to_json()
        else:
            require_new_directory(place)
    return finished


def _same_plan(result: dict[str, Any], plan: RemovalPlan, place: Path) -> dict[str, Any]:
    if result["plan"]["removed"] != list(plan.removed):
        raise InputError(
            f"{place} has players {result['plan']['removed']} removed, but this run removes "
            f"{list(plan.removed)}; delete it or choose another --out"
        )
    return result


def _point(label: str, removed: int, value: float | None, measurement: dict[str, Any]) -> dict[str, Any]:
    return {
        "target": label,
        "removed": removed,
        "value": value,
        "held_out_perplexity": measurement["perplexity"]["perplexity"],
        "parameters": measurement["parameters"],
    }
