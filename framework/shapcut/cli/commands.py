"""What each command does."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from shapcut.cli.compare import compare_methods
from shapcut.cli.evaluate import evaluate_model
from shapcut.cli.options import (
    AsJson,
    Calibration,
    Device,
    DryRun,
    Granularity,
    ModelArgument,
    NewOut,
    Out,
    RecipeFile,
    RecipeModel,
    Revision,
    RunDirectory,
    TextOnly,
    Throughput,
    Trust,
    takes_recipe,
)
from shapcut.host.host import Host
from shapcut.pipeline.throughput import THROUGHPUT
from shapcut.support.errors import InputError, ShapcutError

if TYPE_CHECKING:
    from shapcut.pipeline.dry_run import Forecast
    from shapcut.pipeline.result import PruneResult
    from shapcut.pipeline.series import SeriesResult


DEMO_MODEL = "demo:smollm2-135m"


def signature_of(command: Any) -> inspect.Signature:
    """A command's parameters with their annotations resolved."""
    return inspect.signature(command, eval_str=True)


def inspect_model(
    host: Host,
    *,
    model: ModelArgument,
    granularity: Granularity = None,
    device: Device = None,
    trust_remote_code: Trust = None,
    revision: Revision = None,
    text_only: TextOnly = None,
    as_json: AsJson = False,
) -> None:
    """Players, parameters, adapter; what cannot be removed and why."""
    from shapcut.cli import tables
    from shapcut.cli.output import print_json
    from shapcut.host.open_model import find_model, open_model
    from shapcut.recipe.recipe import make_recipe

    recipe = make_recipe({"model": model, "granularity": granularity})
    source = find_model(
        host,
        model,
        device=device or "auto",
        trust_remote_code=bool(trust_remote_code),
        revision=revision,
        text_only=bool(text_only),
    )
    opened = open_model(host, source)
    adapter = opened.adapter
    players = adapter.players(opened.model, recipe.granularity)
    total = sum(parameter.numel() for parameter in opened.model.parameters())
    fast = adapter.stack(opened.model, recipe.granularity) is not None
    if as_json:
        print_json(
            {
                "model": opened.source_name,
                "class": type(opened.model).__name__,
                "adapter": adapter.name,
                "parameters": total,
                "fast_evaluation": fast,
                "players": [{name: getattr(player, name) for name in player.__slots__} for player in players],
            }
        )
        return
    tables.show(
        f"{source.location.name}: {type(opened.model).__name__}, {total:,} parameters",
        ("player", "module", "kind", "parameters", "removable"),
        tables.players_table(players),
    )
    way = (
        "in one pass over the layers"
        if fast
        else "one forward pass a coalition (no fast path for this model)"
    )
    tables.say(f"adapter {adapter.name}; coalitions are evaluated {way}")


@takes_recipe
def score_model(
    host: Host,
    *,
    options: dict[str, Any],
    model: RecipeModel = None,
    run: RunDirectory = None,
    recipe: RecipeFile = None,
    as_json: AsJson = False,
    dry_run: DryRun = False,
    throughput: Throughput = THROUGHPUT,
) -> None:
    """Estimate every player's contribution; the model is not changed."""
    from shapcut.cli import tables
    from shapcut.cli.output import print_json, reporter
    from shapcut.pipeline.dry_run import forecast
    from shapcut.pipeline.prune import score
    from shapcut.recipe.recipe import make_recipe

    made = make_recipe({"model": model, **options}, recipe)
    if dry_run:
        _show_forecast(forecast(made, host, target=False, throughput=throughput), as_json)
        return
    directory = run or Path(f"{Path(made.model.replace(':', '-')).name}.run")
    contributions = score(made, directory, host, reporter())
    if as_json:
        print_json(contributions.to_json())
        return
    tables.show(
        f"contributions ({contributions.weighting})",
        ("player", "contribution", "standard error"),
        tables.contribution_rows(contributions),
    )
    tables.say(tables.fidelity_line(contributions))
    tables.say(f"kept in {directory}")


@takes_recipe
def prune_model(
    host: Host,
    *,
    options: dict[str, Any],
    model: RecipeModel = None,
    out: NewOut = None,
    run: RunDirectory = None,
    recipe: RecipeFile = None,
    as_json: AsJson = False,
    dry_run: DryRun = False,
    throughput: Throughput = THROUGHPUT,
) -> None:
    """Score, select, remove, post-process, verify and write a checkpoint."""
    from shapcut.cli.output import reporter
    from shapcut.pipeline.dry_run import forecast
    from shapcut.pipeline.prune import prune
    from shapcut.pipeline.series import prune_series
    from shapcut.recipe.recipe import make_recipe
    from shapcut.support.files import require_new_directory

    made = make_recipe({"model": model, **options}, recipe)
    if dry_run:
        if out is not None and len(made.target_labels()) < 2:  # noqa: PLR2004 - several go into directories in it
            require_new_directory(out)
        _show_forecast(forecast(made, host, target=True, throughput=throughput), as_json)
        return
    if out is None:
        raise InputError("--out is missing: name a new directory for the pruned checkpoint")
    if len(made.target_labels()) > 1:
        series = prune_series(made, out, host, run_directory=run, reporter=reporter())
        _show_series(series, out, as_json)
        return
    result = prune(made, out, host, run_directory=run, reporter=reporter())
    _show_result(result, out, as_json)


def apply_model(
    host: Host,
    *,
    model: ModelArgument,
    plan: Annotated[Path, typer.Option("--plan", help="a plan.json made earlier")],
    out: Out,
    then: Annotated[list[str] | None, typer.Option(help="post-pruning step, repeatable, in order")] = None,
    run: RunDirectory = None,
    calibration: Calibration = None,
    device: Device = None,
    trust_remote_code: Trust = None,
    revision: Revision = None,
    text_only: TextOnly = None,
    as_json: AsJson = False,
    dry_run: DryRun = False,
) -> None:
    """Carry out a removal plan made earlier."""
    from shapcut.cli import tables
    from shapcut.cli.output import reporter
    from shapcut.game.plan import RemovalPlan
    from shapcut.pipeline.prune import apply_plan
    from shapcut.recipe.recipe import make_recipe
    from shapcut.support.files import require_new_directory

    removal = RemovalPlan.read(plan)
    recipe = make_recipe(
        {
            "model": model,
            "remove": len(removal.removed),
            "granularity": removal.granularity,
            "finalist_samples": 0,
            "then": then or None,
            "calibration": calibration,
            "device": device,
            "trust_remote_code": trust_remote_code,
            "revision": revision,
            "text_only": text_only,
        }
    )
    if dry_run:
        require_new_directory(out)
        tables.say(f"would remove players {list(removal.removed)} of {model} and write {out}")
        return
    result = apply_plan(recipe, removal, out, host, run_directory=run, reporter=reporter())
    _show_result(result, out, as_json)


def list_adapters(host: Host, as_json: AsJson = False) -> None:
    """The installed adapters, and the distribution of each."""
    from shapcut.cli import tables
    from shapcut.cli.output import print_json

    rows = [[entry.name, entry.distribution] for entry in host.adapters]
    if as_json:
        print_json([{"adapter": name, "distribution": distribution} for name, distribution in rows])
        return
    tables.show("adapters", ("adapter", "distribution"), rows)


def list_plugins(host: Host, as_json: AsJson = False) -> None:
    """The installed plugins: version, hooks, and what each offers."""
    from shapcut.cli import tables
    from shapcut.cli.output import print_json

    if as_json:
        plugins = [{name: getattr(plugin, name) for name in plugin.__slots__} for plugin in host.plugins]
        broken = [{name: getattr(plugin, name) for name in plugin.__slots__} for plugin in host.broken]
        print_json({"plugins": plugins, "broken": broken})
        return
    tables.show(
        "plugins",
        ("plugin", "distribution", "version", "hooks", "offers"),
        [
            [p.name, p.distribution, p.version, "\n".join(p.hooks), "\n".join(p.registered)]
            for p in host.plugins
        ],
    )
    for plugin in host.broken:
        tables.say(f"left out: {plugin.name} of {plugin.distribution}: {plugin.reason}")


def check_one_adapter(
    host: Host,
    *,
    name: Annotated[str, typer.Argument(help="a registered adapter")],
    example: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="only this example; repeatable")
    ] = None,
    seed: Annotated[int, typer.Option(help="of the examples' weights")] = 0,
    as_json: AsJson = False,
) -> None:
    """Run the conformance kit over an adapter's examples."""
    from shapcut.cli import tables
    from shapcut.cli.output import print_json
    from shapcut.support.quiet import quiet_libraries
    from shapcut.testing import check_adapter

    with quiet_libraries():
        results = check_adapter(host.adapters.create(name), seed=seed, only=example or ())
    failed = [result for result in results if not result.passed]
    if as_json:
        fields = ("example", "check", "passed", "detail")
        print_json([{field: getattr(result, field) for field in fields} for result in results])
    else:
        tables.show(
            f"conformance of {name}", ("example", "passed", "failed"), tables.conformance_rows(results)
        )
    if failed:
        first = failed[0]
        raise ShapcutError(
            f"adapter {name!r} fails {len(failed)} of {len(results)} checks; "
            f"the first: {first.check} on {first.example}: {first.detail}"
        )


def demo(
    host: Host,
    *,
    out: Annotated[Path, typer.Option("--out", help="new directory for the pruned checkpoint")] = Path(
        "demo-out"
    ),
    remove: Annotated[str, typer.Option(metavar="N", help="number of players to remove")] = "6",
    budget: Annotated[str, typer.Option(metavar="N", help="coalitions that may be evaluated")] = "120",
    as_json: AsJson = False,
) -> None:
    """A real model, start to end: SmolLM2-135M from PyPI, some of its 30 blocks removed."""
    from shapcut.cli.output import reporter
    from shapcut.pipeline.prune import prune
    from shapcut.recipe.recipe import make_recipe

    recipe = make_recipe(
        {"model": DEMO_MODEL, "remove": remove, "budget": budget, "samples": 8, "finalist_samples": 24}
    )
    result = prune(recipe, out, host, reporter=reporter())
    _show_result(result, out, as_json)


def _show_result(result: PruneResult, out: Path, as_json: bool) -> None:
    from shapcut.cli import tables
    from shapcut.cli.output import print_json

    if as_json:
        print_json(result.to_json())
        return
    removed, kept = result.plan.removed, result.plan.kept
    indices = ", ".join(str(player) for player in removed)
    tables.show(
        f"removed {len(removed)} of {len(removed) + len(kept)} players: {indices}",
        ("", "dense", "pruned", "change"),
        tables.comparison(result),
    )
    tables.say(result.plan.reason)
    tables.say(
        f"reloaded with {result.checkpoint.library}, its logits are within "
        f"{result.checkpoint.max_difference:.1e} of the expected ones; written to {out}"
    )


def _show_series(series: SeriesResult, out: Path, as_json: bool) -> None:
    from shapcut.cli import tables
    from shapcut.cli.output import print_json

    if as_json:
        print_json(series.to_json())
        return
    headings = ("target", "removed", "value", "held-out perplexity", "parameters")
    tables.show(f"cuts in {out}", headings, tables.curve_rows(series))
    for label, result in series.results.items():
        tables.say(f"{label}: removed {', '.join(map(str, result['plan']['removed']))}")


def _show_forecast(found: Forecast, as_json: bool) -> None:
    from shapcut.cli import tables
    from shapcut.cli.output import print_json

    if as_json:
        print_json(found.to_json())
        return
    tables.show("what would be done", ("", ""), tables.forecast_rows(found))


COMMANDS = {
    "inspect": inspect_model,
    "score": score_model,
    "prune": prune_model,
    "apply": apply_model,
    "evaluate": evaluate_model,
    "compare": compare_methods,
    "adapters": list_adapters,
    "plugins": list_plugins,
    "check-adapter": check_one_adapter,
    "demo": demo,
}
