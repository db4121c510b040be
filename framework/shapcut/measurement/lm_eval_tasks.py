"""Tasks of lm-evaluation-harness: found and read before a model is, then asked of each model."""

import contextlib
import importlib.util
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from shapcut.measurement.record import TaskScore
from shapcut.models.adapter import Adapter
from shapcut.support.errors import InputError
from shapcut.support.progress import Reporter
from shapcut.support.quiet import one_line, quiet_libraries
from shapcut.support.suggest import did_you_mean

_RESAMPLES = 1000
"""Draws behind the standard error of a metric that has no formula for it."""

_INDICES = (False, True)
"""Whether the harness's own tasks are looked at, in the order of the attempts: that takes seconds."""

_SINGLE_PROCESS = "DISABLE_MULTIPROC"
_STDERR = "_stderr"


@dataclass(frozen=True, slots=True)
class TaskQuestion:
    """Which tasks are asked, and how.

    Attributes:
        names: of tasks, groups or tags.
        path: a directory with further tasks, as YAML files; None: only those that come with the harness.
        limit: examples of each task at most; None: all.
        shots: solved examples before each question; None: as many as the task says.
    """

    names: tuple[str, ...]
    path: Path | None = None
    limit: int | None = None
    shots: int | None = None


class Harness:
    """lm-evaluation-harness with tasks that are known and whose data can be read.

    Args:
        question: the tasks.
        manager: the harness's own index of tasks.
    """

    def __init__(self, question: TaskQuestion, manager: Any) -> None:
        self._question = question
        self._manager = manager

    @classmethod
    def prepared(cls, question: TaskQuestion) -> "Harness":
        """Check everything that can be checked without a model.

        Raises:
            InputError: if the package is missing, a task is unknown or its data cannot be read.
        """
        if not question.names:
            raise InputError("--tasks names no task")
        if question.path is not None and not question.path.is_dir():
            raise InputError(f"--task-path {question.path} is not a directory")
        if importlib.util.find_spec("lm_eval") is None:
            raise InputError("--tasks needs lm-evaluation-harness: pip install 'shapcut[eval]'")
        with _quiet():
            harness = cls(question, _index(question))
        harness._load()
        return harness

    def scores(
        self, adapter: Adapter, model: nn.Module, tokenizer: Any, reporter: Reporter
    ) -> tuple[tuple[TaskScore, ...], tuple[str, ...]]:
        """What a model reaches on each task, and lines on what could not be asked as wanted.

        Args:
            adapter: the model's adapter.
            model: canonicalised, in evaluation mode.
            tokenizer: the model's.
            reporter: told how many requests are done.

        Raises:
            InputError: if a task asks something that this model or its tokenizer cannot do.
        """
        loaded, notes = self._load()
        with _quiet():
            from lm_eval.evaluator import evaluate  # noqa: PLC0415 - optional, seconds to import

            from shapcut.measurement.lm_eval_models import harness_model  # noqa: PLC0415 - as above

            asked = harness_model(adapter, model, tokenizer, reporter)
            try:
                found = evaluate(
                    lm=asked,
                    task_dict=loaded,
                    limit=self._question.limit,
                    bootstrap_iters=_RESAMPLES,
                    log_samples=False,
                )
            except (ValueError, AssertionError, NotImplementedError, LookupError) as error:
                raise InputError(f"--tasks {self._names()}: {one_line(error)}") from error
        return _read(found), tuple(notes)

    def _load(self) -> tuple[dict[str, Any], list[str]]:
        """The tasks, each with as many solved examples as wanted, and lines on those that refuse that."""
        with _quiet():
            try:
                loaded: dict[str, Any] = self._manager.load(list(self._question.names))
            except Exception as error:
                raise InputError(f"cannot read the tasks {self._names()}: {one_line(error)}") from error
        notes = []
        for name, task in loaded["tasks"].items():
            own, wanted = task.get_config("num_fewshot"), self._question.shots
            if own == 0 and wanted:
                notes.append(f"{name} says itself that it is asked without solved examples")
            elif wanted is not None or own is None:
                task.set_config(key="num_fewshot", value=wanted or 0)
            task.set_fewshot_seed(seed=0)
        return loaded, notes

    def _names(self) -> str:
        return ",".join(self._question.names)


def _index(question: TaskQuestion) -> Any:
    """An index that has all names: of the directory alone if that is enough, as the harness's takes seconds.

    Raises:
        InputError: if no index has them.
    """
    from lm_eval.tasks import TaskManager  # noqa: PLC0415 - optional, seconds to import

    known: list[str] = []
    for defaults in _INDICES:
        if not defaults and question.path is None:
            continue
        manager = TaskManager(
            include_path=None if question.path is None else str(question.path), include_defaults=defaults
        )
        known = manager.all_tasks
        if set(question.names) <= set(known):
            return manager
    unknown = next(name for name in question.names if name not in known)
    raise InputError(f"--tasks: there is no task {unknown!r}; {did_you_mean(unknown, known)}")


def _read(found: Any) -> tuple[TaskScore, ...]:
    """The harness's results: ``METRIC,FILTER`` are metrics there, ``METRIC_stderr,FILTER`` their errors."""
    return tuple(_score(name, values, found) for name, values in found["results"].items())


def _score(name: str, values: dict[str, Any], found: Any) -> TaskScore:
    metrics: dict[str, float] = {}
    errors: dict[str, float] = {}
    for key, value in values.items():
        metric, _, kind = key.partition(",")
        if not kind or isinstance(value, (str, bool)) or value is None:
            continue
        suffix = "" if kind == "none" else f" ({kind})"
        if metric.endswith(_STDERR):
            errors[metric.removesuffix(_STDERR) + suffix] = float(value)
        else:
            metrics[metric + suffix] = float(value)
    return TaskScore(
        task=name,
        samples=int(found["n-samples"].get(name, {}).get("effective", 0)),
        shots=int(found["n-shot"].get(name, 0)),
        metrics=metrics,
        errors=errors,
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """The harness prints, also on stdout, which is for results, and starts processes for standard errors."""
    before = os.environ.get(_SINGLE_PROCESS)
    os.environ[_SINGLE_PROCESS] = "1"
    nowhere = io.StringIO()
    try:
        with quiet_libraries(), contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
            yield
    finally:
        if before is None:
            del os.environ[_SINGLE_PROCESS]
        else:
            os.environ[_SINGLE_PROCESS] = before
