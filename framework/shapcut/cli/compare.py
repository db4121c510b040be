"""The command that lets several methods compete."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from shapcut.cli import completion, options
from shapcut.cli.help import Command
from shapcut.cli.options import A_PATH, OUTPUT, option, recipe_options
from shapcut.host.host import Host
from shapcut.recipe.fields import FIELDS, MODEL
from shapcut.recipe.methods import METHODS
from shapcut.support.errors import InputError

if TYPE_CHECKING:
    from shapcut.comparison.compare import Comparison, HeldOutText
    from shapcut.comparison.row import ResultRow
    from shapcut.comparison.standings import Summary
    from shapcut.recipe.recipe import Recipe


_NOT_SHARED = {
    "remove",
    "ratio",
    "parameters",
    "memory",
    "cache",
    "speedup",
    "nested",
    "mend",
    "mend_finalists",
    "preset",
    "estimator",
    "selector",
    "sampler",
    "then",
    "seed",
    "executor",
}

NumberT = TypeVar("NumberT", int, float)


@click.command("compare", cls=Command, panel="Judge")
@click.argument(
    "models",
    metavar="MODEL...",
    nargs=-1,
    required=True,
    help=f"{MODEL}; several are compared in turn",
    shell_complete=completion.file_or(completion.models),
)
@option(
    "--methods",
    metavar="NAME,NAME",
    default=",".join(METHODS),
    help="names, or ESTIMATOR+SELECTOR; NAME@BUDGET gives a method its own budget",
    panel="Method",
    shell_complete=completion.one_of(completion.methods, listed=True),
)
@option("--ratios", metavar="R,R", help="shares of the players to remove, such as 0.1,0.2", panel="Target")
@option("--remove", metavar="N,N", help="numbers of players to remove, such as 3,6,10", panel="Target")
@option("--seeds", metavar="N,N", default="0", help="seeds, one comparison each", panel="Method")
@option(
    "--held-out",
    metavar="FILE",
    help="text to judge on",
    default_text="the last quarter of the calibration text",
    panel="Text",
)
@option(
    "--held-out-length",
    metavar="N",
    help="tokens per window of --held-out",
    default_text="that of --sequence-length",
    panel="Text",
)
@options.run
@option("--csv", "table", type=A_PATH, metavar="FILE", help="write all rows as CSV", panel=OUTPUT)
@options.as_json
@recipe_options([name for name in FIELDS if name not in _NOT_SHARED])
@click.pass_obj
def compare(
    host: Host,
    /,
    *,
    models: tuple[str, ...],
    methods: str,
    ratios: str | None,
    remove: str | None,
    seeds: str,
    held_out: str | None,
    held_out_length: str | None,
    run: Path | None,
    table: Path | None,
    as_json: bool,
    **given: Any,
) -> None:
    """Compare methods: what they remove, held-out perplexity, cost.

    Several models are compared in turn, each in a directory of its own below that of --run.
    """
    from shapcut.cli.output import print_json, reporter
    from shapcut.comparison.compare import compare as compare_methods
    from shapcut.comparison.contestants import parse_methods
    from shapcut.comparison.several import compare_models, rows_as_csv
    from shapcut.recipe.recipe import make_recipe
    from shapcut.support.files import require_new_file, write_text_atomically

    recipe = make_recipe({"model": models[0], **given})
    contestants = parse_methods(methods)
    targets = _targets(recipe, remove, ratios)
    chosen_seeds = _numbers("--seeds", seeds, int)
    if wrong := [seed for seed in chosen_seeds if seed < 0]:
        raise InputError(f"--seeds {wrong[0]}: a seed is not negative")
    text = _held_out(held_out, held_out_length, recipe)
    if table is not None:
        require_new_file(table, "--csv")

    def on(model: str, directory: Path) -> Comparison:
        named = {"model": model}
        return compare_methods(
            recipe.model_copy(update=named),
            contestants,
            [target.model_copy(update=named) for target in targets],
            seeds=chosen_seeds,
            run_directory=directory,
            host=host,
            held_out=text,
            reporter=reporter(),
        )

    found = compare_models(models, run, on)
    if table is not None:
        write_text_atomically(table, rows_as_csv([each for each, _ in found.values()]))
    if as_json:
        contents = [each.to_json() for each, _ in found.values()]
        print_json(contents[0] if len(contents) == 1 else {"format_version": 1, "models": contents})
        return
    for comparison, directory in found.values():
        _show(comparison, directory)


def _held_out(source: str | None, length: str | None, recipe: Recipe) -> HeldOutText | None:
    """The text to judge on; None: a part of the calibration text."""
    from shapcut.comparison.compare import HeldOutText

    if length is not None and source is None:
        raise InputError("--held-out-length is for the text of --held-out: name one")
    if source is None:
        return None
    tokens = _numbers("--held-out-length", length or str(recipe.sequence_length), int)[0]
    return HeldOutText(source, recipe.held_out_samples, tokens)


def _targets(recipe: Recipe, remove: str | None, ratios: str | None) -> list[Recipe]:
    """A recipe for each amount to remove."""
    from shapcut.recipe.recipe import make_recipe

    if (remove is None) == (ratios is None):
        raise InputError("give either --remove 3,6 or --ratios 0.1,0.2")
    values: Sequence[float] = (
        _numbers("--remove", remove, int) if remove is not None else _numbers("--ratios", ratios or "", float)
    )
    name = "remove" if remove is not None else "ratio"
    return [make_recipe({**recipe.model_dump(exclude_unset=True), name: value}) for value in values]


def _numbers(option: str, text: str, kind: Callable[[str], NumberT]) -> list[NumberT]:
    """Numbers with commas between."""
    try:
        return [kind(part) for part in text.split(",")]
    except ValueError as error:
        raise InputError(f"{option} {text}: numbers with commas between are wanted") from error


def _show(comparison: Comparison, directory: Path) -> None:
    from shapcut.cli import tables
    from shapcut.comparison.standings import standings, summaries, verdicts

    facts, found = comparison.facts, standings(comparison.rows)
    others = [each["source"] for each in facts["other_texts"]]
    elsewhere = {name: standings([row.on(name) for row in comparison.rows]) for name in others}
    dense, text = _number(facts["dense_held_out_perplexity"]), facts["text"]
    tables.show(
        f"{facts['model']['source']}: held-out perplexity of the whole model {dense}",
        ("method", "perplexity", *(f"on {name}" for name in others), "best or not told apart", "tokens", "s"),
        _summary_rows(summaries(found), [summaries(each) for each in elsewhere.values()]),
    )
    for n_remove, verdict in verdicts(found).items():
        tables.say(f"{n_remove} removed: {verdict}")
    for name, ranked in elsewhere.items():
        for n_remove, verdict in verdicts(ranked).items():
            tables.say(f"{n_remove} removed, on {name}: {verdict}")
    windows = " windows of ".join(map(str, text["held_out_windows"]))
    tables.say(
        f"judged on {text['held_out']}, {windows} tokens (SHA-256 {text['held_out_fingerprint'][:16]}); "
        "perplexities are geometric means, intervals 95 % t intervals over windows, of these seeds' sets"
    )
    for each in facts["other_texts"]:
        windows = " windows of ".join(map(str, each["windows"]))
        tables.say(
            f"judged on {each['source']}, too, {windows} tokens (SHA-256 {each['fingerprint'][:16]}): "
            f"perplexity of the whole model {_number(each['dense_perplexity'])}"
        )
    tables.show(
        "every row",
        (
            "method",
            "seed",
            "removed",
            "perplexity",
            *(f"on {name}" for name in others),
            "sets",
            "tokens",
            "s",
        ),
        [_cells(row, others) for row in comparison.rows],
    )
    if any(row.differences for row in comparison.rows):
        tables.show(tables.PAIRED, ("method", "removed", "seed", "task", "points"), _accuracies(comparison))
    tables.say(f"kept in {directory}")


def _summary_rows(found: Sequence[Summary], elsewhere: Sequence[Sequence[Summary]]) -> list[list[str]]:
    """One row a method: its perplexity on the held-out text, then on each other text."""
    means = [{each.method: each.perplexity for each in ranked} for ranked in elsewhere]
    return [_summary_cells(each, [mean[each.method] for mean in means]) for each in found]


def _summary_cells(summary: Summary, elsewhere: Sequence[float | None]) -> list[str]:
    return [
        summary.method,
        _number(summary.perplexity),
        *map(_number, elsewhere),
        f"{summary.best} of {summary.sizes}",
        f"{summary.tokens:,.0f}",
        f"{summary.seconds:,.1f}",
    ]


def _accuracies(comparison: Comparison) -> list[list[str]]:
    """The difference of each method that says most: the mean of several tasks, or the only one."""
    from shapcut.cli.figures import difference_rows

    said = [(row, difference_rows(row.differences)[-1]) for row in comparison.rows if row.differences]
    return [[row.method, str(row.n_remove), str(row.seed), cells[0], cells[5]] for row, cells in said]


def _cells(row: ResultRow, others: Sequence[str]) -> list[str]:
    if row.failure:
        return [row.method, str(row.seed), row.failure, *[""] * (4 + len(others))]
    return [
        row.method,
        str(row.seed),
        " ".join(map(str, row.removed)),
        _number(row.held_out_perplexity),
        *(_number(row.on(name).held_out_perplexity) for name in others),
        f"{row.evaluations:,}",
        f"{row.tokens:,}",
        f"{row.seconds:,.1f}",
    ]


def _number(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.2f}"
