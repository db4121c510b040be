"""The page of a comparison: one HTML file that needs no network and no script."""

from dataclasses import dataclass

from shapcut.files import write_text_atomically
from shapcut.run import Run
from shapcut_plugins import comparison_chart
from shapcut_plugins.comparison_chart import Chart
from shapcut_plugins.comparison_data import ComparisonFacts, RowFacts, read_comparison
from shapcut_plugins.page import environment

TEMPLATE = "comparison.html.jinja"


@dataclass(frozen=True, slots=True)
class Size:
    """The rows for one number of players to remove.

    Attributes:
        n_remove: the number.
        rows: best first.
        chart: of them; None if no row has a result.
    """

    n_remove: int
    rows: tuple[RowFacts, ...]
    chart: Chart | None


def write_comparison(run: Run) -> None:
    """Write the page of a comparison into its directory, in place of an earlier one.

    Raises:
        InputError: if the comparison cannot be read.
    """
    write_text_atomically(run.comparison_page, render_comparison(read_comparison(run.comparison)))


def render_comparison(facts: ComparisonFacts) -> str:
    """The page as HTML text; everything is escaped."""
    sizes = []
    for n_remove in sorted({row.n_remove for row in facts.rows}):
        rows = sorted((row for row in facts.rows if row.n_remove == n_remove), key=_badness)
        sizes.append(Size(n_remove, tuple(rows), comparison_chart.comparison_chart(rows)))
    return (
        environment().get_template(TEMPLATE).render(facts=facts, sizes=sizes, geometry=vars(comparison_chart))
    )


def _badness(row: RowFacts) -> tuple[bool, float, str, int]:
    perplexity = row.held_out_perplexity
    return perplexity is None, perplexity or 0.0, row.method, row.seed
