"""The page of a comparison: one self-contained HTML file."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from shapcut.contracts import Run, write_text_atomically
from shapcut_plugins.report.charts import comparison as comparison_chart
from shapcut_plugins.report.charts.comparison import Chart
from shapcut_plugins.report.charts.curve import curve_chart
from shapcut_plugins.report.charts.depth_map import DepthMap, depth_map
from shapcut_plugins.report.comparison_data import ComparisonFacts, RowFacts, method_cuts, read_comparison
from shapcut_plugins.report.page import environment
from shapcut_plugins.report.run_data import Cut, ManifestFacts, read_part

TEMPLATE = "comparison.html.jinja"


@dataclass(frozen=True, slots=True)
class Standing:
    """One method for one number of players, over its seeds.

    Attributes:
        method: its name.
        number: index of the method's colour on the page.
        source: publication of the method.
        cut: its held-out perplexity; None if no seed has a finite one.
        seeds: number of seeds with one.
        tokens: processed tokens, mean over seeds.
        seconds: time taken, mean over seeds.
    """

    method: str
    number: int
    source: str
    cut: Cut | None
    seeds: int
    tokens: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Size:
    """The rows for one number of players to remove.

    Attributes:
        n_remove: the number.
        summary: who did best, in a sentence.
        standings: the methods, best first.
        rows: best first.
        chart: of them; None if no row has a result.
        depth: which players each method removes.
    """

    n_remove: int
    summary: str
    standings: tuple[Standing, ...]
    rows: tuple[RowFacts, ...]
    chart: Chart | None
    depth: DepthMap | None


def write_comparison(run: Run) -> None:
    """Write the page of a comparison into its directory, replacing an earlier one.

    Raises:
        InputError: if the comparison cannot be read.
    """
    manifest = read_part(run.manifest, ManifestFacts) if run.manifest.is_file() else None
    text = render_comparison(read_comparison(run.comparison), manifest)
    write_text_atomically(run.comparison_page, text)


def render_comparison(facts: ComparisonFacts, manifest: ManifestFacts | None = None) -> str:
    """The page as HTML text; everything is escaped.

    Args:
        facts: the comparison.
        manifest: of the run that compared it, if there is one.
    """
    methods = list(dict.fromkeys(row.method for row in facts.rows))
    sizes = [
        _size([row for row in facts.rows if row.n_remove == n_remove], methods, facts)
        for n_remove in sorted({row.n_remove for row in facts.rows})
    ]
    content: dict[str, Any] = {
        "facts": facts,
        "sizes": sizes,
        "methods": methods,
        "seeds": sorted({row.seed for row in facts.rows}),
        "curve": curve_chart(method_cuts(facts)),
        "geometry": vars(comparison_chart),
        "manifest": manifest,
        "accuracies": [
            (f"{row.method}, {row.n_remove}, {row.seed}", each)
            for row in facts.rows
            for each in row.differences
        ],
    }
    return environment().get_template(TEMPLATE).render(content)


def _size(rows: Sequence[RowFacts], methods: Sequence[str], facts: ComparisonFacts) -> Size:
    ordered = sorted(rows, key=_badness)
    standings = [
        _standing(own, number)
        for number, method in enumerate(methods)
        if (own := [row for row in rows if row.method == method])
    ]
    standings.sort(
        key=lambda standing: (standing.cut is None, standing.cut.perplexity if standing.cut else 0.0)
    )
    removals = [
        (each.method, each.number, [row.removed for row in rows if row.method == each.method and row.removed])
        for each in standings
    ]
    return Size(
        n_remove=rows[0].n_remove,
        summary=_summary(standings, facts.dense_held_out_perplexity),
        standings=tuple(standings),
        rows=tuple(ordered),
        chart=comparison_chart.comparison_chart(ordered, methods),
        depth=depth_map(removals, facts.model.players),
    )


def _standing(rows: Sequence[RowFacts], number: int) -> Standing:
    found = [row.held_out_perplexity for row in rows if row.held_out_perplexity is not None]
    worked = [row for row in rows if not row.failure] or list(rows)
    return Standing(
        method=rows[0].method,
        number=number,
        source=rows[0].source,
        cut=Cut.of(rows[0].n_remove, found) if found else None,
        seeds=len(found),
        tokens=sum(row.tokens for row in worked) / len(worked),
        seconds=sum(row.seconds for row in worked) / len(worked),
    )


def _summary(standings: Sequence[Standing], dense: float | None) -> str:
    """The best method, the next, and their distance."""
    known = [(standing, standing.cut) for standing in standings if standing.cut]
    if not known:
        return "No method has a finite result."
    best, cut = known[0]
    text = f"{best.method} does best: held-out perplexity {cut.perplexity:,.2f}"
    text += "" if dense is None else f" against {dense:,.2f} of the whole model"
    if len(known) == 1:
        return text + "."
    second, other = known[1]
    text += f"; next is {second.method} with {other.perplexity:,.2f}"
    overlap = best.seeds > 1 and second.seeds > 1 and other.low <= cut.high
    return text + (", and their seeds overlap." if overlap else ".")


def _badness(row: RowFacts) -> tuple[bool, float, str, int]:
    perplexity = row.held_out_perplexity
    return perplexity is None, perplexity or 0.0, row.method, row.seed
