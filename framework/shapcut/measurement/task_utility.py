"""A coalition's worth on tasks: how well the model without the absent players answers their questions."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import nn

from shapcut.measurement.lm_eval_tasks import Harness, TaskQuestion
from shapcut.models.adapter import Adapter
from shapcut.support.errors import InputError
from shapcut.support.progress import Silent
from shapcut.valuation.utilities import ModelUtility, TokenizedUtility

TaskMeasure = Literal["margin", "accuracy"]
_NORMALISED, _PLAIN = "acc_norm", "acc"
_UNLIKELY = -1e6


@dataclass(frozen=True, slots=True)
class Question:
    """One question, asked by log-likelihoods.

    Attributes:
        task: the harness's task.
        document: the question's fields.
        requests: the harness's requests, one for each answer.
        right: index of the right answer; None if there is only one request, whose text is the answer.
        lengths: by which log-likelihoods are divided: characters of the answers if the task has a normalised
            accuracy, else 1.
    """

    task: Any
    document: Any
    requests: tuple[Any, ...]
    right: int | None
    lengths: tuple[float, ...]

    def margin(self, answers: Sequence[tuple[float, bool]]) -> float:
        """Log-likelihood of the right answer minus that of the best other one, in nats."""
        nats = [value / length for (value, _), length in zip(answers, self.lengths, strict=True)]
        if self.right is None:
            return nats[0]
        return nats[self.right] - max(value for place, value in enumerate(nats) if place != self.right)

    def accuracy(self, answers: Sequence[tuple[float, bool]]) -> float:
        """1 if the harness counts the answer as right, else 0."""
        return _accuracy(self.task, self.document, answers)


class TaskUtility(TokenizedUtility):
    """How well a coalition answers the questions of tasks, ``tasks:piqa+arc_easy,limit=50``.

    The last questions are asked, so that ``--limit`` of ``--tasks``, which asks the first ones, judges on
    others. Every coalition needs a forward pass over all answers: there is no fast path.

    Args:
        names: tasks of lm-evaluation-harness that are answered by likelihood, or ``zero-shot``.
        limit: questions of each task.
        measure: ``margin``: mean log-likelihood of the right answer minus that of the best other one, a
            character where the task has a normalised accuracy, else in all; it differs between any two
            models. ``accuracy``: the share of right answers, which takes few values and has many ties.
        data: a directory of questions, as for ``--task-data``.
    """

    def __init__(
        self, names: tuple[str, ...], limit: int = 50, measure: TaskMeasure = "margin", data: str = ""
    ) -> None:
        if limit < 1:
            raise ValueError(f"limit={limit}: at least one question is needed")
        self.name = f"tasks:{'+'.join(names)},limit={limit},measure={measure}"
        self._limit = limit
        self._measure: TaskMeasure = measure
        question = TaskQuestion(names, data=Path(data) if data else None)
        self._tasks = Harness.prepared(question).loaded()
        if odd := [name for name, task in self._tasks.items() if task.OUTPUT_TYPE not in _BY_LIKELIHOOD]:
            raise InputError(f"utility 'tasks': {odd[0]} is not answered by likelihood; name another task")

    def bound(self, adapter: Adapter, tokenizer: Any) -> ModelUtility:
        """The mean over tasks of the mean over their questions."""
        from shapcut.measurement.lm_eval_models import AdapterLM  # noqa: PLC0415 - imports lm_eval

        questions = {name: _questions(task, self._limit) for name, task in self._tasks.items()}
        requests = [request for asked in questions.values() for each in asked for request in each.requests]

        def worth(model: nn.Module) -> float:
            scorer = AdapterLM(adapter, model, tokenizer, Silent(), padded=True)
            answers = iter(scorer.loglikelihood(requests, disable_tqdm=True))
            means = []
            for asked in questions.values():
                worths = [self._worth(each, [next(answers) for _ in each.requests]) for each in asked]
                means.append(sum(worths) / len(worths))
            return sum(means) / len(means)

        texts = repr([request.args for request in requests])
        return ModelUtility(worth, f"{self.name} {hashlib.sha256(texts.encode()).hexdigest()[:16]}")

    def _worth(self, question: Question, answers: Sequence[tuple[float, bool]]) -> float:
        return question.margin(answers) if self._measure == "margin" else question.accuracy(answers)


_BY_LIKELIHOOD = {"multiple_choice", "loglikelihood"}


def _questions(task: Any, limit: int) -> list[Question]:
    """The last questions of a task, each as the harness asks it."""
    task.build_all_requests(limit=None, rank=0, world_size=1)
    grouped: dict[int, list[Any]] = {}
    for instance in task.instances:
        grouped.setdefault(instance.doc_id, []).append(instance)
    return [_question(task, grouped[place]) for place in sorted(grouped)[-limit:]]


def _question(task: Any, instances: Sequence[Any]) -> Question:
    document = instances[0].doc
    if task.OUTPUT_TYPE == "loglikelihood":
        return Question(task, document, tuple(instances[:1]), None, (1.0,))
    trials = [[(0.0 if i == right else _UNLIKELY, False) for i, _ in enumerate(instances)] for right, _ in
              enumerate(instances)]  # fmt: skip
    right = [place for place, trial in enumerate(trials) if _accuracy(task, document, trial) == 1.0]
    if len(right) != 1:
        raise InputError(f"utility 'tasks': a question of {task.task_name} has {len(right)} right answers")
    normalised = _NORMALISED in task.process_results(document, trials[0])
    lengths = [float(len(each.args[1].strip())) if normalised else 1.0 for each in instances]
    return Question(task, document, tuple(instances), right[0], tuple(max(1.0, length) for length in lengths))


def _accuracy(task: Any, document: Any, answers: Sequence[tuple[float, bool]]) -> float:
    found = task.process_results(document, list(answers))
    return float(found.get(_NORMALISED, found.get(_PLAIN, 0.0)))
