"""The runs in a directory, side by side."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from shapcut.measurement.record import paired_texts
from shapcut.pipeline.result import PruneResult
from shapcut.support.errors import InputError
from shapcut.support.plain_json import read_json
from shapcut.support.run_directory import Run

_DEEPEST = 3
_MOST = 10_000
_TARGETS = ("remove", "ratio", "parameters", "memory", "cache", "speedup")


@dataclass(frozen=True, slots=True)
class TextFigures:
    """Perplexity on one text.

    Attributes:
        source: source of the text.
        fingerprint: digest of its tokens; perplexities compare only where it is the same.
        before: of the original.
        after: of the pruned model.
    """

    source: str
    fingerprint: str
    before: float
    after: float


@dataclass(frozen=True, slots=True)
class TaskFigures:
    """Accuracy on the questions of one task.

    Attributes:
        task: the task's name.
        metric: the metric, such as ``acc``.
        before: of the original.
        after: of the pruned model.
    """

    task: str
    metric: str
    before: float
    after: float


@dataclass(frozen=True, slots=True)
class CutFigures:
    """The figures of one cut.

    Attributes:
        texts: on each text, the held-out text first.
        tasks: on each task that both models were asked.
    """

    texts: tuple[TextFigures, ...]
    tasks: tuple[TaskFigures, ...]

    @classmethod
    def of(cls, result: PruneResult) -> "CutFigures":
        """The figures in a result."""
        before, after = result.before, result.after
        read = [(after.held_out_source, after.held_out_fingerprint, before.perplexity, after.perplexity)]
        read += [
            (last.source, last.fingerprint, first.perplexity, last.perplexity)
            for first, last in paired_texts(before, after)
        ]
        return cls(
            tuple(
                TextFigures(source, fingerprint, first.perplexity, last.perplexity)
                for source, fingerprint, first, last in read
            ),
            tuple(
                TaskFigures(each.task, each.metric, each.before, each.after) for each in result.differences
            ),
        )


@dataclass(frozen=True, slots=True)
class RunSummary:
    """One run, as its manifest tells it.

    Attributes:
        directory: the run directory.
        status: ``running``, ``done``, ``failed``, or ``damaged``.
        started: when, in UTC.
        model: what was pruned.
        target: what was asked for, such as ``ratio 0.2``.
        method: estimator, selector and utility.
        removed: number of removed players; None if nothing was removed, or there were several cuts.
        dense_perplexity: on held-out text, of the original.
        perplexity: of the pruned model.
        parameters: of the pruned model.
        seconds: time of all phases; of a run without any, which applied a plan, that from start to end.
        held_out: digest of the held-out tokens; perplexities compare only where it is the same.
        cuts: figures of each cut, by its label; a single one is ``pruned``.
    """

    directory: str
    status: str
    started: str = ""
    model: str = ""
    target: str = ""
    method: str = ""
    removed: int | None = None
    dense_perplexity: float | None = None
    perplexity: float | None = None
    parameters: int | None = None
    seconds: float = 0.0
    held_out: str = ""
    cuts: Mapping[str, CutFigures] = field(default_factory=dict)


def read_runs(directory: Path) -> tuple[RunSummary, ...]:
    """The runs in a directory and up to two levels below it, the earliest first.

    Raises:
        InputError: if it is no directory, or holds no run.
    """
    if not directory.is_dir():
        raise InputError(f"{directory} is not a directory; name one that holds run directories")
    found = [_summary(run) for run in _runs(directory, 0)]
    if not found:
        raise InputError(f"{directory} holds no run; name the directory above those of --run")
    return tuple(sorted(found, key=lambda run: (run.started, run.directory)))


def _runs(directory: Path, depth: int) -> Iterator[Run]:
    run = Run(directory)
    if run.manifest.is_file():
        yield run
        return
    if depth == _DEEPEST - 1:
        return
    try:
        inside = sorted(path for path in directory.iterdir() if path.is_dir() and not path.is_symlink())
    except OSError:
        return
    for path in inside[:_MOST]:
        yield from _runs(path, depth + 1)


def _summary(run: Run) -> RunSummary:
    """What the manifest says; a damaged one is told as such."""
    try:
        content = read_json(run.manifest)
        return _told(run, content)
    except (InputError, OSError, ValueError, KeyError, TypeError, AttributeError):
        return RunSummary(str(run.directory), "damaged")


def _told(run: Run, content: dict[str, Any]) -> RunSummary:
    recipe, result = content["recipe"], content.get("result")
    target = next((f"{name} {recipe[name]}" for name in _TARGETS if recipe.get(name) is not None), "")
    told: dict[str, Any] = {
        "status": str(content["status"]),
        "started": str(content["started"]),
        "model": str(content["model"]["source"]),
        "target": target,
        "method": f"{recipe['estimator']}+{recipe['selector']}, {recipe['utility']}",
        "seconds": sum(float(phase.get("seconds", 0.0)) for phase in content["phases"].values())
        or _elapsed(content),
    }
    if run.rows.is_file():
        told |= _compared(read_json(run.rows))
    if result is None:
        series = content.get("series") or {"results": {}}
        return RunSummary(str(run.directory), **told, cuts=_cuts(series["results"]))
    found = PruneResult.from_json(result)
    return RunSummary(
        str(run.directory),
        **told,
        removed=len(found.plan.removed),
        dense_perplexity=found.before.perplexity.perplexity,
        perplexity=found.after.perplexity.perplexity,
        parameters=found.after.parameters,
        held_out=found.after.held_out_fingerprint,
        cuts=_cuts({"pruned": result}),
    )


def _compared(rows: list[dict[str, Any]]) -> dict[str, str]:
    """The methods and sizes of a comparison."""
    methods = dict.fromkeys(str(row["method"]) for row in rows)
    sizes = dict.fromkeys(str(row["n_remove"]) for row in rows)
    return {"method": f"comparison of {', '.join(methods)}", "target": f"remove {', '.join(sizes)}"}


def _elapsed(content: dict[str, Any]) -> float:
    if "finished" not in content:
        return 0.0
    begin, end = (datetime.fromisoformat(content[moment]) for moment in ("started", "finished"))
    return (end - begin).total_seconds()


def _cuts(results: Mapping[str, Any]) -> dict[str, CutFigures]:
    return {label: CutFigures.of(PruneResult.from_json(result)) for label, result in results.items()}
