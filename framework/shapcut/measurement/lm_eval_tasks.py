"""Tasks of lm-evaluation-harness, prepared before a model is loaded."""

import contextlib
import hashlib
import importlib.util
import io
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from shapcut.measurement.notes import Notes
from shapcut.measurement.record import TaskScore
from shapcut.measurement.task_data import TaskData, expanded
from shapcut.models.adapter import Adapter
from shapcut.support.errors import InputError
from shapcut.support.progress import Reporter
from shapcut.support.quiet import one_line, quiet_libraries
from shapcut.support.suggest import did_you_mean

_RESAMPLES = 1000
"""Bootstrap draws for the standard error of a metric without a formula."""

_INDICES = (False, True)
"""Whether to index the harness's own tasks, which takes seconds, in the order of the attempts."""

_DIGITS = {0.0: 0, 1.0: 1}
_SINGLE_PROCESS = "DISABLE_MULTIPROC"
_STDERR = "_stderr"


@dataclass(frozen=True, slots=True)
class TaskQuestion:
    """Which tasks to ask, and how.

    Attributes:
        names: of tasks, groups or tags, or ``zero-shot`` for the usual ones.
        path: a directory with further tasks as YAML files; None: only the harness's own.
        data: a directory with the tasks' questions, see `shapcut.measurement.task_data`; None: the harness
            downloads them.
        limit: maximum number of examples per task; None: all.
        shots: solved examples before each question; None: the task's own number.
    """

    names: tuple[str, ...]
    path: Path | None = None
    limit: int | None = None
    shots: int | None = None
    data: Path | None = None

    @property
    def expanded(self) -> "TaskQuestion":
        """The question with names in place of ``zero-shot``."""
        return replace(self, names=expanded(self.names, self.data))

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {"names": list(self.names), "limit": self.limit, "shots": self.shots}


class Harness:
    """lm-evaluation-harness with known tasks and readable data.

    Args:
        question: the tasks.
        source: the harness's own index of tasks, or the questions of local files.
    """

    def __init__(self, question: TaskQuestion, source: Any) -> None:
        self._question = question
        self._source = source

    @classmethod
    def prepared(cls, question: TaskQuestion) -> "Harness":
        """Check everything that needs no model.

        Raises:
            InputError: if the package is missing, a task is unknown or its data cannot be read.
        """
        if not question.names:
            raise InputError("--tasks names no task")
        if question.path is not None and not question.path.is_dir():
            raise InputError(f"--task-path {question.path} is not a directory")
        if importlib.util.find_spec("lm_eval") is None:
            raise InputError("--tasks needs lm-evaluation-harness: pip install 'shapcut[eval]'")
        question = question.expanded
        harness = cls(question, _source(question))
        harness._load(question.names, Notes())
        return harness

    @classmethod
    def asked(
        cls,
        names: str | None,
        *,
        path: Path | None = None,
        data: str | Path | None = None,
        limit: int | None = None,
        shots: int | None = None,
    ) -> "Harness | None":
        """As `prepared`, of names with commas between; None without names.

        Raises:
            InputError: as `prepared`, and if another option is given without names.
        """
        if names is None:
            others = {"--task-path": path, "--task-data": data, "--limit": limit, "--num-fewshot": shots}
            if given := [name for name, value in others.items() if value is not None]:
                raise InputError(f"{given[0]} is for tasks: name them with --tasks")
            return None
        wanted = tuple(dict.fromkeys(name.strip() for name in names.split(",") if name.strip()))
        return cls.prepared(TaskQuestion(wanted, path, limit, shots, None if data is None else Path(data)))

    def loaded(self) -> dict[str, Any]:
        """The harness's own tasks by name."""
        loaded: dict[str, Any] = self._load(self._question.names, Notes())["tasks"]
        return loaded

    @property
    def identity(self) -> dict[str, Any]:
        """What the scores depend on besides the model, as plain data."""
        data = self._source.fingerprint() if isinstance(self._source, TaskData) else None
        return {**self._question.to_json(), "data": data}

    def scores(
        self, adapter: Adapter, model: nn.Module, tokenizer: Any, reporter: Reporter, notes: Notes
    ) -> tuple[TaskScore, ...]:
        """Score a model on each task; a task that fails on this model becomes a note.

        Args:
            adapter: the model's adapter.
            model: canonicalised, in evaluation mode.
            tokenizer: the model's.
            reporter: told how many requests are answered.
            notes: receives a line for each task without a score or with settings other than requested.
        """

        def wrapped() -> Any:
            from shapcut.measurement.lm_eval_models import harness_model  # noqa: PLC0415 - imports lm_eval

            return harness_model(adapter, model, tokenizer, reporter)

        scores: dict[str, TaskScore] = {}
        for name in self._question.names:
            ask = partial(self._asked, name, wrapped, notes)
            scores |= {score.task: score for score in notes.attempt(f"no score on {name}", ask) or ()}
        return tuple(scores.values())

    def _asked(self, name: str, harness_model: Callable[[], Any], notes: Notes) -> tuple[TaskScore, ...]:
        """Scores on one name of the question, which may stand for several tasks."""
        loaded = self._load((name,), notes)
        with _quiet():
            from lm_eval.evaluator import evaluate  # noqa: PLC0415 - optional, seconds to import

            found = evaluate(
                lm=harness_model(),
                task_dict=loaded,
                limit=self._question.limit,
                bootstrap_iters=_RESAMPLES,
                log_samples=True,
            )
        return tuple(_score(task, values, found) for task, values in found["results"].items())

    def _load(self, names: Sequence[str], notes: Notes) -> dict[str, Any]:
        """Load tasks and set their number of solved examples; note each task that fixes its own."""
        with _quiet():
            try:
                loaded: dict[str, Any] = self._source.load(list(names))
            except Exception as error:
                raise InputError(f"cannot read the tasks {','.join(names)}: {one_line(error)}") from error
        for name, task in loaded["tasks"].items():
            own, wanted = task.get_config("num_fewshot"), self._question.shots
            if own == 0 and wanted:
                notes.lines.append(f"{name} is asked without solved examples: its num_fewshot is fixed at 0")
            elif wanted is not None or own is None:
                task.set_config(key="num_fewshot", value=wanted or 0)
            task.set_fewshot_seed(seed=0)
        return loaded


def _source(question: TaskQuestion) -> Any:
    if question.data is None:
        with _quiet():
            return _index(question)
    if question.path is not None:
        raise InputError("--task-path and --task-data both say where questions come from; give one")
    if question.shots:
        raise InputError(
            "--num-fewshot needs examples to show, and --task-data has only questions; leave it out"
        )
    return TaskData(question.data, question.names)


def _index(question: TaskQuestion) -> Any:
    """An index with all names; of the directory alone if that suffices, since the harness's takes seconds.

    Raises:
        InputError: if a name is unknown.
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
    raise InputError(f"--tasks: unknown task {unknown!r}; {did_you_mean(unknown, known)}")


def _score(name: str, values: dict[str, Any], found: Any) -> TaskScore:
    """One task's score; the harness names metrics ``METRIC,FILTER`` and errors ``METRIC_stderr,FILTER``."""
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
        **_answers(list((found.get("samples") or {}).get(name, ()))),
    )


def _answers(samples: list[dict[str, Any]]) -> dict[str, Any]:
    """Which questions were answered right, by metrics that say so, and a digest of the questions."""
    plain = sorted((each for each in samples if each["filter"] == "none"), key=lambda each: each["doc_id"])
    answers = {}
    for metric in plain[0]["metrics"] if plain else ():
        digits = [_DIGITS.get(value) for each in plain if isinstance(value := each.get(metric), int | float)]
        if len(digits) == len(plain) and None not in digits:
            answers[metric] = "".join(map(str, digits))
    asked = [[each["doc_hash"], each["prompt_hash"], each["target_hash"]] for each in plain]
    return {"answers": answers, "questions": hashlib.sha256(repr(asked).encode()).hexdigest()}


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the harness, which prints even on stdout, and keep it in one process."""
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
