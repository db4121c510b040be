"""The page of a comparison: one self-contained HTML file."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from shapcut.contracts import Run, write_text_atomically
from shapcut_plugins.report.charts import comparison as comparison_chart
from shapcut_plugins.report.charts.comparison import Chart
from shapcut_plugins.report.charts.curve import curve_chart
from shapcut_plugins.report.charts.depth_map import DepthMap, depth_map
from shapcut_plugins.report.comparison_data import (
    ComparisonFacts,
    RowFacts,
    StandingFacts,
    method_cuts,
    read_comparison,
    standings_of,
)
from shapcut_plugins.report.page import environment
from shapcut_plugins.report.run_data import ManifestFacts, read_part

TEMPLATE = "comparison.html.jinja"


_NO_INTERVALS = "No intervals were recorded, so nobody is called best: repeat the comparison."


@dataclass(frozen=True, slots=True)
class Size:
    """The rows for one number of players to remove.

    Attributes:
        n_remove: the number.
        verdict: who did best, in a sentence.
        standings: the methods, best first.
        rows: best first.
        chart: of them; None if no row has a result.
        depth: which players each method removes.
    """

    n_remove: int
    verdict: str
    standings: tuple[StandingFacts, ...]
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
    named = [row.method for row in facts.rows] + [each.method for each in facts.standings]
    methods = list(dict.fromkeys([*named, *(each.method for each in facts.summary)]))
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
    ordered, n_remove = sorted(rows, key=_badness), rows[0].n_remove
    standings = tuple(each for each in standings_of(facts) if each.n_remove == n_remove)
    removals = [
        (
            each.method,
            methods.index(each.method),
            [row.removed for row in rows if row.method == each.method and row.removed],
        )
        for each in standings
    ]
    return Size(
        n_remove=n_remove,
        verdict=facts.verdicts.get(n_remove, _NO_INTERVALS),
        standings=standings,
        rows=tuple(ordered),
        chart=comparison_chart.comparison_chart(ordered, methods),
        depth=depth_map(removals, facts.model.players),
    )


def _badness(row: RowFacts) -> tuple[bool, float, str, int]:
    perplexity = row.held_out_perplexity
    return perplexity is None, perplexity or 0.0, row.method, row.seed
