"""What each command does."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from shapcut.cli import options
from shapcut.cli.compare import compare
from shapcut.cli.completion import offered
from shapcut.cli.evaluate import evaluate
from shapcut.cli.help import Command
from shapcut.cli.options import A_PATH, OUTPUT, option, recipe_option, recipe_options
from shapcut.cli.push import push_model, push_to_hub, pushed, require_pushable
from shapcut.cli.serve import serve_check
from shapcut.host.host import Host
from shapcut.support.errors import InputError, ShapcutError

if TYPE_CHECKING:
    from shapcut.pipeline.dry_run import Forecast
    from shapcut.pipeline.inspection import Inspection
    from shapcut.pipeline.result import PruneResult
    from shapcut.pipeline.series import SeriesResult


DEMO_MODEL = "demo:smollm2-135m"

command = partial(click.command, cls=Command)

_new_out = option(
    "--out",
    type=A_PATH,
    metavar="DIR",
    help="new directory for the checkpoint, or FILE.gguf to cut a GGUF file [required except with --dry-run]",
    panel=OUTPUT,
)

_throughput = option(
    "--throughput",
    type=float,
    metavar="T",
    help="with --dry-run: TFLOP/s that the device sustains [default: measured]",
    panel="Machine",
)


@command("inspect", panel="See what there is")
@options.model_argument
@recipe_options(("granularity", "device", "trust_remote_code", "revision", "text_only"))
@options.as_json
@click.pass_obj
def inspect_model(
    host: Host,
    /,
    *,
    model: str,
    as_json: bool,
    **given: Any,
) -> None:
    """Players, parameters, adapter; what cannot be removed and why."""
    from shapcut.cli import tables
    from shapcut.cli.output import print_json
    from shapcut.pipeline.inspection import inspect_named
    from shapcut.recipe.recipe import make_recipe

    recipe = make_recipe({"model": model, **given})
    found = inspect_named(
        host,
        model,
        recipe.granularity,
        device=recipe.device,
        trust_remote_code=recipe.trust_remote_code,
        revision=recipe.revision,
        text_only=recipe.text_only,
    )
    if as_json:
        print_json(found.to_json())
        return
    tables.show(
        f"{Path(found.source).name}: {found.model_class}, {found.parameters:,} parameters",
        ("player", "module", "kind", "parameters", "removable"),
        tables.players_table(found.players),
    )
    tables.say(f"adapter {found.adapter}; {_EVALUATION[found.fast_evaluation]}{_finer(found)}")


_EVALUATION = {
    None: "read from its config alone",
    True: "coalitions are evaluated in one pass over the layers",
    False: "coalitions are evaluated one forward pass a coalition (no fast path for this model)",
}


def _finer(found: Inspection) -> str:
    finer = ", ".join(each for each in found.granularities if each != found.granularity)
    return f"; players can also be --granularity {finer}" if finer else ""


@command("score", panel="Prune")
@options.recipe_model
@options.run
@options.recipe
@options.as_json
@options.dry_run
@recipe_options()
@_throughput
@click.pass_obj
def score_model(
    host: Host,
    /,
    *,
    model: str | None,
    run: Path | None,
    recipe: Path | None,
    as_json: bool,
    dry_run: bool,
    throughput: float | None,
    **given: Any,
) -> None:
    """Estimate every player's contribution; the model is not changed."""
    from shapcut.cli import tables
    from shapcut.cli.output import print_json, reporter
    from shapcut.pipeline.dry_run import forecast
    from shapcut.pipeline.prune import score
    from shapcut.recipe.recipe import make_recipe

    made = make_recipe({"model": model, **given}, recipe)
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


@command("prune", panel="Prune")
@options.recipe_model
@_new_out
@options.run
@options.recipe
@options.as_json
@options.dry_run
@recipe_options()
@_throughput
@push_to_hub
@click.pass_obj
def prune_model(
    host: Host,
    /,
    *,
    model: str | None,
    out: Path | None,
    run: Path | None,
    recipe: Path | None,
    as_json: bool,
    dry_run: bool,
    throughput: float | None,
    push_to_hub: str | None,
    **given: Any,
) -> None:
    """Score, select, remove, compensate, verify and write a checkpoint."""
    from shapcut.cli.output import reporter
    from shapcut.pipeline.dry_run import forecast
    from shapcut.pipeline.output import is_gguf_output, require_output
    from shapcut.pipeline.prune import prune
    from shapcut.pipeline.series import prune_series
    from shapcut.recipe.recipe import make_recipe

    made = make_recipe({"model": model, **given}, recipe)
    made = made.mended_by_default(as_file=out is not None and is_gguf_output(out))
    hub = require_pushable(push_to_hub, len(made.target_labels()))
    if dry_run:
        if out is not None:
            require_output(made, out)
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
    pushed(out, run, hub)


@command("apply", panel="Prune")
@options.model_argument
@option("--plan", type=A_PATH, metavar="FILE", required=True, help="a plan.json made earlier", panel="Method")
@options.out
@options.run
@recipe_options(
    (
        *("form", "then", "calibration", "judge_on", "tasks", "task_data", "limit"),
        *("device", "offload", "trust_remote_code", "revision", "text_only"),
    )
)
@recipe_option("mend", default_text="off")
@options.as_json
@options.dry_run
@push_to_hub
@click.pass_obj
def apply_model(
    host: Host,
    /,
    *,
    model: str,
    plan: Path,
    out: Path,
    run: Path | None,
    as_json: bool,
    dry_run: bool,
    push_to_hub: str | None,
    **given: Any,
) -> None:
    """Carry out a removal plan made earlier."""
    from shapcut.cli import tables
    from shapcut.cli.output import reporter
    from shapcut.game.plan import RemovalPlan
    from shapcut.pipeline.output import require_output
    from shapcut.pipeline.prune import apply_plan
    from shapcut.recipe.recipe import make_recipe

    removal = RemovalPlan.read(plan)
    recipe = make_recipe(
        {
            "model": model,
            "remove": None if removal.granularity == "mixed" else len(removal.removed),
            "granularity": removal.granularity,
            "finalist_samples": 0,
            **given,
            "mend": bool(given["mend"]),
            "form": given["form"] or ("remote-code" if removal.form == "remote-code" else "plain"),
        }
    )
    hub = require_pushable(push_to_hub, 1)
    if dry_run:
        require_output(recipe, out)
        named = removal.layers or removal.parts
        players = "; ".join(removal.listed()) if named else f"players {list(removal.removed)}"
        tables.say(f"would remove {players} of {model} and write {out}")
        return
    result = apply_plan(recipe, removal, out, host, run_directory=run, reporter=reporter())
    _show_result(result, out, as_json)
    pushed(out, run, hub)


@command("adapters", panel="See what there is")
@options.as_json
@click.pass_obj
def list_adapters(host: Host, /, *, as_json: bool) -> None:
    """The installed adapters, with their distributions and model families."""
    from shapcut.cli import tables
    from shapcut.cli.output import print_json

    rows = [[entry.name, entry.distribution] for entry in host.adapters]
    families = {name: sorted(host.adapters.create(name).examples()) for name, _ in rows}
    if as_json:
        print_json(
            [
                {"adapter": name, "distribution": distribution, "families": families[name]}
                for name, distribution in rows
            ]
        )
        return
    tables.show("adapters", ("adapter", "distribution"), rows)
    for name, known in families.items():
        tables.say(f"{name} supports {len(known)}: {', '.join(known)}")


@command("families", panel="See what there is")
@click.argument("name", metavar="[NAME]", required=False, help="a model type or class, such as qwen3")
@options.as_json
@click.pass_obj
def list_families(host: Host, /, *, name: str | None, as_json: bool) -> None:
    """Which model families are supported, exactly or within which limits."""
    from shapcut.cli import tables
    from shapcut.cli.output import print_json
    from shapcut.pipeline.inspection import families_named, known_families

    known = known_families(host)
    found = known if name is None else families_named(known, name)
    if as_json:
        print_json([{"adapter": adapter, **asdict(family)} for adapter, family in found])
        return
    title = f"{sum(family.supported for _, family in found)} of {len(found)} families are supported"
    tables.show(title, ("family", "adapter", "players", "verdict and limits"), tables.family_rows(found))


@command("plugins", panel="See what there is")
@options.as_json
@click.pass_obj
def list_plugins(host: Host, /, *, as_json: bool) -> None:
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


@command("check-adapter", panel="See what there is")
@click.argument("name", metavar="NAME", help="a registered adapter", shell_complete=offered("adapters"))
@option("--example", metavar="NAME", multiple=True, help="check only this example; repeat for several")
@option("--seed", metavar="N", type=int, default=0, help="seed of the examples' weights")
@options.as_json
@click.pass_obj
def check_one_adapter(
    host: Host, /, *, name: str, example: tuple[str, ...], seed: int, as_json: bool
) -> None:
    """Run the conformance kit over an adapter's examples."""
    from shapcut.cli import tables
    from shapcut.cli.output import print_json
    from shapcut.testing import check_adapter

    results = check_adapter(host.adapters.create(name), seed=seed, only=example)
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


@command("demo", panel="Prune")
@option(
    "--out",
    type=A_PATH,
    metavar="DIR",
    default=Path("demo-out"),
    help="new directory for the checkpoint",
    panel=OUTPUT,
)
@recipe_option("remove", default="6", default_text="6")
@recipe_option("budget", default="120", default_text="120")
@options.as_json
@click.pass_obj
def demo(host: Host, /, *, out: Path, remove: str, budget: str, as_json: bool) -> None:
    """Prune a real model, SmolLM2-135M from PyPI, start to end."""
    from shapcut.cli.output import reporter
    from shapcut.pipeline.prune import prune
    from shapcut.recipe.recipe import make_recipe

    recipe = make_recipe(
        {"model": DEMO_MODEL, "remove": remove, "budget": budget, "samples": 8, "finalist_samples": 24}
    ).mended_by_default(as_file=False)
    result = prune(recipe, out, host, reporter=reporter())
    _show_result(result, out, as_json)


@command("runs", panel="Judge")
@click.argument("directory", metavar="DIR", type=A_PATH, help="holds run directories")
@options.as_json
def list_runs(*, directory: Path, as_json: bool) -> None:
    """The runs in a directory, side by side."""
    from shapcut.cli import tables
    from shapcut.cli.output import print_json
    from shapcut.pipeline.runs import read_runs

    runs = read_runs(directory)
    if as_json:
        print_json([tables.finite(asdict(run)) for run in runs])
        return
    headings = ("run", "status", "model", "target", "method", "removed", "s")
    tables.show(f"runs in {directory}", headings, tables.run_rows(runs, directory))
    for title, (columns, rows) in (
        ("perplexity, by text", tables.text_rows(runs, directory)),
        ("accuracy, by task", tables.task_rows(runs, directory)),
    ):
        if rows:
            tables.show(title, ("run", *columns), rows)
    for source in tables.incomparable_texts(runs):
        tables.say(f"the runs read different tokens of {source}: these perplexities do not compare")


def _show_result(result: PruneResult, out: Path, as_json: bool) -> None:
    from shapcut.cli import tables
    from shapcut.cli.figures import difference_rows
    from shapcut.cli.output import print_json

    if as_json:
        print_json(result.to_json())
        return
    removed, kept = result.plan.removed, result.plan.kept
    lines = result.plan.listed()
    indices = "" if result.plan.layers else f": {lines[0]}"
    tables.show(
        f"removed {len(removed)} of {len(removed) + len(kept)} players{indices}",
        ("", "dense", "pruned", "change", "interval of the change"),
        tables.comparison(result),
    )
    if result.plan.layers:
        tables.say("\n".join(lines))
    tables.say(tables.held_out_line(result))
    if result.differences:
        tables.show(tables.PAIRED, tables.PAIRED_HEADINGS, difference_rows(result.differences))
    tables.say(result.plan.reason)
    if result.form:
        tables.say(result.form)
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
    for line in tables.cut_lines(series):
        tables.say(line)


def _show_forecast(found: Forecast, as_json: bool) -> None:
    from shapcut.cli import tables
    from shapcut.cli.output import print_json

    if as_json:
        print_json(found.to_json())
        return
    tables.show("what would be done", ("", ""), tables.forecast_rows(found))


COMMANDS = (
    inspect_model,
    list_adapters,
    list_families,
    list_plugins,
    check_one_adapter,
    score_model,
    prune_model,
    apply_model,
    demo,
    push_model,
    evaluate,
    compare,
    serve_check,
    list_runs,
)
"""In the order of the help."""
