"""Results as tables for people."""

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from shapcut.game.coalitions import Player
from shapcut.game.contributions import Contributions
from shapcut.game.groups import Groups
from shapcut.game.interval import Ratio
from shapcut.measurement.perplexity import PerplexityResult
from shapcut.measurement.record import ModelMeasurement, paired_texts
from shapcut.models.adapter import FamilySupport
from shapcut.pipeline.dry_run import Forecast
from shapcut.pipeline.footprint import gigabytes
from shapcut.pipeline.result import PruneResult
from shapcut.pipeline.runs import CutFigures, RunSummary
from shapcut.pipeline.series import SeriesResult
from shapcut.support.digits import apart
from shapcut.testing import CheckResult

PAIRED = "accuracy on the same questions, with the 95 % interval of the paired difference"
PAIRED_HEADINGS = ("task", "metric", "questions", "before", "after", "points", "answers")


def show(title: str, headings: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print one table on stdout."""
    table = Table(title=title, title_justify="left")
    for heading in headings:
        table.add_column(heading)
    for row in rows:
        table.add_row(*row)
    Console().print(table)


def say(text: str) -> None:
    """Print one line on stdout, as it is."""
    Console().print(text, markup=False, highlight=False, soft_wrap=True)


def players_table(players: Sequence[Player]) -> list[list[str]]:
    """One row a player, or a group of players."""
    if len(Groups.of(players)) > 1:
        groups = groupby(players, key=lambda player: player.group)
        return [row for group, some in groups for row in _rows_of(list(some), together=group is not None)]
    return _rows_of(players, together=False)


def _rows_of(players: Sequence[Player], *, together: bool) -> list[list[str]]:
    if together:
        return [_group_row(players)]
    return [
        [
            str(player.index),
            player.name,
            player.kind,
            f"{player.parameters:,}",
            "yes" if player.removable else f"no: {player.reason}",
        ]
        for player in players
    ]


def _group_row(players: Sequence[Player]) -> list[str]:
    first, last = players[0], players[-1]
    removable = sum(player.removable for player in players)
    reason = next((f": {player.reason}" for player in players if not player.removable), "")
    return [
        f"{first.index} to {last.index}",
        f"{first.name} to {last.name.rpartition('.')[2]}",
        first.kind,
        f"{sum(player.parameters for player in players):,}",
        f"{removable} of {len(players)}{reason}",
    ]


def comparison(result: PruneResult) -> list[list[str]]:
    """Dense against pruned, one row a figure, with the interval of each uncertain change."""
    before, after, found = result.before, result.after, result.changes
    return [
        [
            "perplexity on held-out text",
            *_pair(before.perplexity.perplexity, after.perplexity.perplexity, "{:.2f}"),
            between(found.get("perplexity.perplexity")),
        ],
        *(
            [
                last.figure,
                *_pair(first.perplexity.perplexity, last.perplexity.perplexity, "{:.2f}"),
                between(found.get(last.figure)),
            ]
            for first, last in paired_texts(before, after)
        ),
        ["parameters", *_pair(before.parameters, after.parameters, "{:,}"), ""],
        ["weights (MB)", *_pair(before.weight_bytes / 1e6, after.weight_bytes / 1e6, "{:.1f}"), ""],
        ["checkpoint file (MB)", *_file_sizes(before, after), ""],
        *_caches(before, after),
        *_latency(before, after, found),
    ]


def held_out_line(result: PruneResult) -> str:
    """The text of the perplexities, and what the intervals are."""
    return (
        f"held-out text: {described(result.before)}; intervals are 95 % t intervals, of perplexities over "
        "paired windows, of durations over repeats"
    )


def described(measurement: ModelMeasurement) -> str:
    """The texts that a model was measured on."""
    overlap = "" if measurement.stride is None else f", every {measurement.stride}"
    bos = ", BOS first" if measurement.adds_bos else ""
    found = _read(
        measurement.held_out_source,
        measurement.perplexity,
        f"{measurement.sequence_length} tokens{overlap}{bos}",
        measurement.held_out_fingerprint,
    )
    others = [
        _read(each.source, each.perplexity, "as many tokens", each.fingerprint)
        for each in measurement.other_texts
    ]
    return "; ".join([found, *others])


def _read(source: str, read: PerplexityResult, length: str, fingerprint: str) -> str:
    windows = len(read.window_tokens)
    count = f"{windows} windows of " if windows else "windows of "
    return f"{source}, {count}{length} (SHA-256 {fingerprint[:16]})"


def between(ratio: Ratio | None) -> str:
    """The interval of a change in percent; empty without one."""
    if ratio is None or ratio.interval is None:
        return ""
    return ratio.change() if ratio.told_apart else f"{ratio.change()}: not told apart"


def _caches(before: ModelMeasurement, after: ModelMeasurement) -> list[list[str]]:
    if before.caches is None or after.caches is None:
        return []
    left = dict(zip(after.caches.lengths, after.caches.sizes, strict=True))
    return [
        [f"cache after {length} tokens (MB)", *_pair(size / 1e6, left[length] / 1e6, "{:.3f}"), ""]
        for length, size in zip(before.caches.lengths, before.caches.sizes, strict=True)
        if length in left
    ]


def _latency(
    before: ModelMeasurement, after: ModelMeasurement, found: Mapping[str, Ratio]
) -> list[list[str]]:
    if before.latency is None or after.latency is None:
        return []
    return [
        [
            name,
            *_pair(getattr(before.latency, field) * 1e3, getattr(after.latency, field) * 1e3, "{:.1f}"),
            between(found.get(f"latency.{field}")),
        ]
        for name, field in (
            (f"prefill of {before.latency.prompt_tokens} tokens (ms)", "prefill_seconds"),
            ("decode of one token (ms)", "decode_seconds"),
        )
    ]


def _pair(before: float, after: float, form: str) -> tuple[str, str, str]:
    change = "equal" if before == after else f"{after / before - 1.0:+.1%}" if before else ""
    first, last = apart([before, after], form)
    return first, last, change


def _file_sizes(before: ModelMeasurement, after: ModelMeasurement) -> tuple[str, str, str]:
    if before.checkpoint_bytes is None or after.checkpoint_bytes is None:
        return _megabytes(before), _megabytes(after), ""
    return _pair(before.checkpoint_bytes / 1e6, after.checkpoint_bytes / 1e6, "{:.1f}")


def _megabytes(measurement: ModelMeasurement) -> str:
    size = measurement.checkpoint_bytes
    return "" if size is None else f"{size / 1e6:.1f}"


def contribution_rows(contributions: Contributions) -> list[list[str]]:
    """One row a player, lowest contribution first."""
    order = contributions.values.argsort()
    return [
        [str(i), f"{contributions.values[i]:.4f}", f"{contributions.standard_errors[i]:.4f}"] for i in order
    ]


def fidelity_line(contributions: Contributions) -> str:
    """What the surrogate is worth, in a sentence."""
    spent = f"{contributions.evaluations} coalitions measured"
    if contributions.excluded:
        spent += f", {contributions.excluded} of them without a finite value and excluded"
    fidelity = contributions.fidelity
    if fidelity is None:
        return spent
    if fidelity.at_target is not None:
        return f"{spent}; {fidelity.at_target.in_words()}"
    figures = [
        f"{name} {value:.3f}"
        for name, value in (
            ("R^2", fidelity.r_squared),
            ("Spearman", fidelity.spearman),
            ("Spearman among the better half", fidelity.spearman_good),
        )
        if value is not None
    ]
    if not figures:
        return f"{spent}; too few that lack several players to judge the surrogate by"
    return (
        f"{spent}; surrogate on {fidelity.coalitions} held-out coalitions: {', '.join(figures)} (no target "
        "was named, so nothing at its size)"
    )


def curve_rows(series: SeriesResult) -> list[list[str]]:
    """One row a cut, the whole model first."""
    return [
        [
            point["target"],
            str(point["removed"]),
            "" if point["value"] is None else f"{point['value']:.4f}",
            f"{float(point['held_out_perplexity']):.2f}",
            f"{point['parameters']:,}",
        ]
        for point in series.curve()
    ]


def cut_lines(series: SeriesResult) -> list[str]:
    """Each cut's removed players and change of perplexity; then the text of the perplexities."""
    lines = []
    for label, content in series.results.items():
        result = PruneResult.from_json(content)
        named = {"perplexity.perplexity": "perplexity"}
        named |= {each.figure: each.figure for each in result.after.other_texts}
        found = {name: between(result.changes.get(path)) for path, name in named.items()}
        removed = ", ".join(map(str, result.plan.removed))
        changes = "".join(f"; {name} {change}" for name, change in found.items() if change)
        lines.append(f"{label}: removed {removed}{changes}")
        if len(lines) == len(series.results):
            lines.append(held_out_line(result))
    return lines


def family_rows(found: Sequence[tuple[str, FamilySupport]]) -> list[list[str]]:
    """One row a family."""
    return [
        [
            family.name,
            adapter,
            ", ".join(family.granularities),
            "; ".join((family.verdict, *family.limits, *(() if family.fast else ("no fast path",)))),
        ]
        for adapter, family in found
    ]


def run_rows(runs: Sequence[RunSummary], directory: Path) -> list[list[str]]:
    """One row a run."""
    return [
        [
            os.path.relpath(run.directory, directory),
            run.status,
            run.model,
            run.target,
            run.method,
            "" if run.removed is None else str(run.removed),
            f"{run.seconds:,.1f}",
        ]
        for run in runs
    ]


def text_rows(runs: Sequence[RunSummary], directory: Path) -> tuple[list[str], list[list[str]]]:
    """Headings, one a text, and one row a cut: perplexities of the original and of the pruned model."""
    cuts = {
        name: {text.source: _changed(text.before, text.after, "{:,.2f}") for text in cut.texts}
        for name, cut in _named_cuts(runs, directory)
    }
    return _aligned(cuts)


def task_rows(runs: Sequence[RunSummary], directory: Path) -> tuple[list[str], list[list[str]]]:
    """Headings, one a task, and one row a cut: accuracies of the original and of the pruned model."""
    cuts = {
        name: {f"{task.task} {task.metric}": f"{task.before:.1%} to {task.after:.1%}" for task in cut.tasks}
        for name, cut in _named_cuts(runs, directory)
        if cut.tasks
    }
    return _aligned(cuts)


def incomparable_texts(runs: Sequence[RunSummary]) -> list[str]:
    """The texts whose tokens differ between the runs."""
    read: dict[str, set[str]] = {}
    for text in (text for run in runs for cut in run.cuts.values() for text in cut.texts):
        read.setdefault(text.source, set()).add(text.fingerprint)
    return [source for source, fingerprints in read.items() if len(fingerprints) > 1]


def _named_cuts(runs: Sequence[RunSummary], directory: Path) -> list[tuple[str, CutFigures]]:
    """The cuts of all runs, by run and, where a run has several, label."""
    return [
        (os.path.relpath(run.directory, directory) + ("" if len(run.cuts) == 1 else f": {label}"), cut)
        for run in runs
        for label, cut in run.cuts.items()
    ]


def _changed(before: float, after: float, form: str) -> str:
    first, last, change = _pair(before, after, form)
    return f"{first} to {last}" + (f" ({change})" if change else "")


def _aligned(cells: Mapping[str, Mapping[str, str]]) -> tuple[list[str], list[list[str]]]:
    """Headings and rows of cells by row and column; empty where a row lacks a column."""
    columns = list(dict.fromkeys(column for row in cells.values() for column in row))
    return columns, [[name, *(row.get(column, "") for column in columns)] for name, row in cells.items()]


def finite(content: Any) -> Any:
    """The same with words for infinities and NaN, which JSON lacks."""
    if isinstance(content, dict):
        return {key: finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [finite(value) for value in content]
    return str(content) if isinstance(content, float) and not math.isfinite(content) else content


def conformance_rows(results: Sequence[CheckResult]) -> list[list[str]]:
    """One row an example: how many checks passed, and which failed."""
    examples = dict.fromkeys(result.example for result in results)
    rows = []
    for example in examples:
        own = [result for result in results if result.example == example]
        failed = [f"{result.check}: {result.detail}" for result in own if not result.passed]
        rows.append([example, f"{len(own) - len(failed)} of {len(own)}", "\n".join(failed)])
    return rows


def forecast_rows(found: Forecast) -> list[list[str]]:
    """What a run would do and need, one row a fact."""
    memory = found.memory
    read = "from its config" if found.from_config else "its weights were read to know its shape"
    weights = "quantized" if memory.weights is None else gigabytes(memory.weights)
    copied = f" and {gigabytes(memory.converted)} for a copy in {found.dtype}" if memory.converted else ""
    return [
        ["model", f"{found.model}: {found.architecture}, {found.parameters:,} parameters ({read})"],
        ["adapter", found.adapter],
        ["players", f"{found.players}, {found.removable} of them removable"],
        ["to remove", _cuts(found)],
        ["estimator and selector", f"{found.estimator}, {found.selector}"],
        ["coalitions", _coalitions(found)],
        ["tokens", f"{found.tokens_per_coalition:,} a coalition, {found.tokens:,} at most"],
        ["weights in memory", f"{weights}{copied}"],
        ["states of coalitions", f"{gigabytes(memory.state)} each, {gigabytes(memory.budget)} for all that "
         f"are kept; {memory.coalitions_at_once} coalitions go through the layers together"],
        ["free", f"{gigabytes(memory.free)} on {memory.device}"],
        ["offloading", found.advice],
        ["operations", f"{found.operations:.2e}, if {found.blocks_per_coalition} players are present in each "
         "coalition and no prefix is shared; attention between tokens is not counted"],
        ["time", f"{_time(found)} at {found.throughput / 1e12:.3g} TFLOP/s in {found.dtype}, "
         f"{found.throughput_source}"],
        ["not counted", "loading, finalists' text, figures before and after, post-pruning steps"],
        ["post-pruning steps", ", ".join(found.steps) or "none"],
        *(["caveat", caveat] for caveat in found.caveats),
    ]  # fmt: skip


def _coalitions(found: Forecast) -> str:
    text = f"{found.coalitions:,} at most, measured by the executor {found.executor}"
    if found.least is None or found.least.part == 1:
        return text
    return (
        f"{text}; {found.least.coalitions:,} of the estimator's on one part in {found.least.part} of the "
        "text, each of which counts as such a part"
    )


def _time(found: Forecast) -> str:
    most = _duration(found.seconds)
    if found.least is None:
        return f"{most} at most, if the whole budget is spent,"
    least = _duration(found.least_seconds)
    if least == most:
        return f"{most} for all coalitions"
    return (
        f"{least} for the estimator, whose coalitions share prefixes, to {most} if the search spends the "
        "whole budget and shares none,"
    )


def _cuts(found: Forecast) -> str:
    if not found.cuts:
        return "unknown before the players' time is measured, or nothing"
    sizes = [
        f"{cut.target}: {cut.fewest}" + (f" to {cut.most}" if cut.most > cut.fewest else "")
        for cut in found.cuts
    ]
    return "; ".join(sizes)


def _duration(seconds: float) -> str:
    """Seconds in the largest unit of which there is at least one."""
    for size, unit in ((3600.0, "hours"), (60.0, "minutes")):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} seconds" if seconds >= 1.0 else "less than a second"
