"""The report of a run: one HTML file that needs no network and no script."""

import json
import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any

import pluggy
import typer
from markupsafe import Markup

from shapcut.files import write_text_atomically
from shapcut.run import Run
from shapcut_plugins.comparison_page import write_comparison
from shapcut_plugins.page import environment, figure
from shapcut_plugins.report_chart import contribution_chart, removal_curve
from shapcut_plugins.report_data import Measurement, Result, RunFacts, read_run

TEMPLATE = "report.html.jinja"

Section = tuple[str, str]
"""A heading and an HTML body, from a plugin that is trusted with it."""

Row = tuple[str, str, str, str]
"""What a figure is of, the original's, the pruned model's, and the change."""


def report_command(hook: pluggy.HookRelay) -> Callable[[Path], None]:
    """The command ``report``; ``hook`` asks the other plugins for their sections."""

    def report(
        directory: Annotated[Path, typer.Argument(metavar="DIR", help="the directory of a run, see --run")],
    ) -> None:
        """Write DIR/report.html, for people: what was removed and why, what it did, what it cost.

        For the directory of a comparison, DIR/comparison.html.
        """
        run = Run(directory)
        if run.comparison.is_file():
            write_comparison(run)
            typer.echo(str(run.comparison_page))
            return
        read_run(run)  # refuses what is no run before any plugin sees it
        write_report(run, hook.shapcut_report_sections(run=run))
        typer.echo(str(run.report))

    return report


def write_report(run: Run, sections: Iterable[Sequence[Section]] = ()) -> None:
    """Write the report of a run into its directory, in place of an earlier one.

    Args:
        run: the run.
        sections: what each of the other plugins adds; bodies are HTML and go in as they are.

    Raises:
        InputError: if it is not the directory of a run, or a file of it cannot be read.
    """
    text = render_report(read_run(run), [section for added in sections for section in added])
    write_text_atomically(run.report, text)


def render_report(facts: RunFacts, sections: Sequence[Section] = ()) -> str:
    """The report as HTML text; everything but the bodies of ``sections`` is escaped."""
    plan, scored, manifest = facts.plan, facts.contributions, facts.manifest
    removed = plan.removed if plan else ()
    points = manifest.series.curve if manifest.series else ()
    cuts = [(point.removed, point.held_out_perplexity) for point in points]
    return (
        environment()
        .get_template(TEMPLATE)
        .render(
            manifest=manifest,
            plan=plan,
            scored=scored,
            removed=removed,
            result=manifest.result,
            comparison=comparison(manifest.result) if manifest.result else [],
            chart=contribution_chart(scored.players, removed) if scored and scored.players else None,
            curve=removal_curve(cuts),
            recipe={key: plain(value) for key, value in manifest.recipe.items() if value not in (None, [])},
            seconds=sum(phase.seconds for phase in manifest.phases.values()),
            sections=[(heading, Markup(body)) for heading, body in sections],  # noqa: S704 - a plugin's own HTML
        )
    )


def comparison(result: Result) -> list[Row]:
    """Dense against pruned, one row a figure."""
    dense, pruned = result.dense, result.pruned
    rows = [
        _row("perplexity", dense.perplexity.perplexity, pruned.perplexity.perplexity, "{:,.2f}"),
        _row("parameters", dense.parameters, pruned.parameters, "{:,}"),
        _row("weights in memory (MB)", dense.weight_bytes / 1e6, pruned.weight_bytes / 1e6, "{:,.2f}"),
        _row("weight files (MB)", _megabytes(dense), _megabytes(pruned), "{:,.2f}"),
    ]
    if dense.latency and pruned.latency:
        before, after = dense.latency, pruned.latency
        prefill = f"reading {before.prompt_tokens} tokens (ms)"
        rows += [
            _row(prefill, before.prefill_seconds * 1e3, after.prefill_seconds * 1e3, "{:,.1f}"),
            _row(
                "one further token (ms)", before.decode_seconds * 1e3, after.decode_seconds * 1e3, "{:,.1f}"
            ),
        ]
    return rows


def plain(value: Any) -> str:
    """A value of a recipe as a person would write it."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _row(name: str, before: float | None, after: float | None, form: str) -> Row:
    return name, figure(before, form), figure(after, form), _change(before, after)


def _change(before: float | None, after: float | None) -> str:
    if not before or after is None or not math.isfinite(after / before):
        return ""
    return f"{after / before - 1.0:+.1%}"


def _megabytes(measurement: Measurement) -> float | None:
    return None if measurement.checkpoint_bytes is None else measurement.checkpoint_bytes / 1e6
