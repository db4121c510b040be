"""The report of a run: one self-contained HTML file."""

import json
import math
from collections.abc import Iterable, Sequence
from typing import Any

from markupsafe import Markup

from shapcut.contracts import RemovalPlan, Run, write_text_atomically
from shapcut_plugins.report import figures as report_measurements
from shapcut_plugins.report import summary as report_summary
from shapcut_plugins.report.baselines import Baselines, own_cuts, read_baselines
from shapcut_plugins.report.charts.contributions import MOST_BARS, contribution_chart
from shapcut_plugins.report.charts.curve import curve_chart
from shapcut_plugins.report.charts.depth_map import DepthMap, depth_map
from shapcut_plugins.report.charts.layers import layer_chart, named_layers
from shapcut_plugins.report.charts.pairs import Pairs, heat_map, scatters
from shapcut_plugins.report.page import environment
from shapcut_plugins.report.run_data import ContributionFacts, PlayerFacts, RunFacts, read_run
from shapcut_plugins.report.serving import served_rows
from shapcut_plugins.report.training import trainings

TEMPLATE = "report.html.jinja"

_MOST_LISTED = 256
"""Players in the table of contributions."""

Section = tuple[str, str]
"""A heading and a trusted HTML body from a plugin."""


def write_report(
    run: Run, sections: Iterable[Sequence[Section]] = (), *, baselines: Run | None = None
) -> None:
    """Write the report of a run into its directory, replacing an earlier one.

    Args:
        run: the run.
        sections: the sections of other plugins; bodies are HTML and inserted unchanged.
        baselines: a comparison whose methods are shown beside the run's own cuts.

    Raises:
        InputError: if it is not the directory of a run, a file of it cannot be read, or the comparison is of
            another model or text.
    """
    facts = read_run(run)
    others = None if baselines is None else read_baselines(facts, baselines)
    text = render_report(facts, [section for added in sections for section in added], others)
    write_text_atomically(run.report, text)


def render_report(
    facts: RunFacts, sections: Sequence[Section] = (), baselines: Baselines | None = None
) -> str:
    """The report as HTML; everything except the bodies of ``sections`` is escaped."""
    manifest, plan = facts.manifest, facts.plan
    methods = [("this run", own_cuts(facts)), *(baselines.methods if baselines else ())]
    return (
        environment()
        .get_template(TEMPLATE)
        .render(
            manifest=manifest,
            plan=plan,
            cuts=facts.cuts,
            removed=facts.removed,
            depth=_depth(facts),
            depth_by_layer=any(result.plan.layers for result in facts.cuts.values()),
            outcome=report_summary.outcome(manifest.result)[1:] if manifest.result else [],
            outcomes={label: report_summary.outcome(result)[1:] for label, result in facts.cuts.items()},
            why=report_summary.why(plan, facts.contributions) if plan else [],
            curve=curve_chart(methods) if manifest.series or baselines else None,
            methods=[name for name, _ in methods],
            baselines=baselines,
            cost=report_summary.cost(facts),
            recipe={key: plain(value) for key, value in manifest.recipe.items() if value not in (None, [])},
            accuracies=[(label, each) for label, cut in facts.cuts.items() for each in cut.differences],
            seconds=sum(phase.seconds for phase in manifest.phases.values()),
            sections=[(heading, Markup(body)) for heading, body in sections],  # noqa: S704 - a plugin's own HTML
            trainings=trainings(facts),
            served=served_rows(facts.serving.checks),
            **_measured(facts),
            **_scored(facts.contributions, facts),
        )
    )


def plain(value: Any) -> str:
    """A recipe value as readable text."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _measured(facts: RunFacts) -> dict[str, Any]:
    """The template's data on the measurements of all cuts."""
    results = list(facts.cuts.values())
    if not results:
        return {"measured": [], "settings": []}
    models = [results[0].dense, *(result.pruned for result in results)]
    return {
        "measured": report_measurements.rows(
            models,
            [result.changes for result in results],
            elsewhere={f"{each.task}: {each.metric}" for result in results for each in result.differences},
        ),
        "settings": report_measurements.settings(results[0].dense),
    }


def _scored(scored: ContributionFacts | None, facts: RunFacts) -> dict[str, Any]:
    """The template's data on the contributions."""
    if scored is None:
        return dict.fromkeys(
            (
                "scored", "chart", "by_layer", "listed", "heat", "pairs", "interaction", "scatters", "trust",
                "differ",
            )
        )  # fmt: skip
    fidelity, removed = scored.fidelity_held_out, facts.removed
    plan = facts.largest
    drawn = 0 < len(scored.players) <= MOST_BARS
    pairs = Pairs.of(scored.interactions or (), scored.interaction_errors, scored.fixed)
    return {
        "scored": scored,
        "chart": contribution_chart(scored.players, removed) if drawn else None,
        "by_layer": layer_chart(scored.players, plan) if plan is not None and not drawn else None,
        "listed": _listed(scored, plan),
        "heat": heat_map(pairs, len(scored.players), removed),
        "pairs": pairs,
        "interaction": report_summary.interaction(pairs),
        "scatters": scatters(fidelity.points, len(removed)) if fidelity else (),
        "trust": report_summary.trust(scored),
        "differ": report_summary.contributions_differ(scored),
    }


def _listed(scored: ContributionFacts, plan: RemovalPlan | None) -> list[tuple[str, PlayerFacts]]:
    """Every player by name; of many those of lowest contribution."""
    layers = named_layers(plan) if plan is not None else []
    names = [f"{name}: {inside}" for name, layer in layers for inside in range(layer.size)]
    players = list(scored.players)
    if len(players) > _MOST_LISTED:
        players = sorted(players, key=lambda facts: math.inf if facts.value is None else facts.value)
    return [
        (names[facts.player] if facts.player < len(names) else str(facts.player), facts)
        for facts in players[:_MOST_LISTED]
    ]


def _depth(facts: RunFacts) -> DepthMap | None:
    plans = {label: result.plan for label, result in facts.cuts.items()}
    if not plans and facts.plan is not None:
        plans = {"plan": facts.plan}
    if (largest := facts.largest) is not None and (layers := named_layers(largest)):
        strips = [(name, None, [layer.removed]) for name, layer in layers]
        sizes = [layer.size for _, layer in layers]
        return depth_map(strips, max(sizes), sizes)
    removals = [(label, None, [plan.removed]) for label, plan in plans.items()]
    return depth_map(removals, facts.manifest.model.players)
