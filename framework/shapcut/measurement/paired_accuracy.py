"""Differences between the accuracies of two models on the same questions."""

import math
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict
from scipy.stats import binomtest, norm

from shapcut.measurement.record import TaskScore

CONFIDENCE = 0.95
ALL_TASKS = "mean"
_PREFERRED = ("acc_norm", "acc")


class PairedDifference(BaseModel):
    """How much more of the same questions one model answers right than another.

    The interval for one task is that of Bonett and Price (2012, adjusted Wald) for paired proportions, which
    only questions widen that the models answer differently. For the mean of several tasks the variances add.

    Attributes:
        task: the task's name.
        metric: the metric, such as ``acc``.
        questions: their number.
        before: accuracy of the first model.
        after: accuracy of the second model.
        difference: ``after - before``.
        low: lower end of the 95 % interval of the difference.
        high: upper end.
        gained: questions that only the second model answers right.
        lost: questions that only the first one does.
        p_value: of McNemar's exact test that gains and losses are equally likely; None for several tasks.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    task: str
    metric: str
    questions: int
    before: float
    after: float
    difference: float
    low: float
    high: float
    gained: int
    lost: int
    p_value: float | None = None

    @property
    def told_apart(self) -> bool:
        """Whether the interval excludes no difference."""
        return self.low > 0.0 or self.high < 0.0


def paired_differences(
    before: Sequence[TaskScore] | None, after: Sequence[TaskScore] | None
) -> tuple[PairedDifference, ...]:
    """One difference for each task and metric that both models have of the same questions.

    After those of several tasks follows their mean, by each task's ``acc_norm`` or else ``acc``.
    """
    others = {score.task: score for score in after or ()}
    found = [
        _difference(score.task, metric, *pair)
        for score in before or ()
        for metric, *pair in _pairs(score, others.get(score.task))
    ]
    chief = list(_chief(found))
    return (*found, *([_mean(chief)] if len(chief) > 1 else []))


def _pairs(
    one: TaskScore, other: TaskScore | None
) -> Iterator[tuple[str, NDArray[np.int64], NDArray[np.int64]]]:
    if other is None or not one.questions or one.questions != other.questions:
        return
    for metric, answers in one.answers.items():
        if len(other.answers.get(metric, "")) == len(answers) > 0:
            yield metric, _digits(answers), _digits(other.answers[metric])


def _digits(answers: str) -> NDArray[np.int64]:
    return np.array([int(answer) for answer in answers])


def _difference(
    task: str, metric: str, before: NDArray[np.int64], after: NDArray[np.int64]
) -> PairedDifference:
    questions = len(before)
    gained, lost = int((after > before).sum()), int((after < before).sum())
    difference = (gained - lost) / questions
    centre, error = _adjusted(gained, lost, questions)
    reach = float(norm.ppf(0.5 + CONFIDENCE / 2)) * error
    return PairedDifference(
        task=task,
        metric=metric,
        questions=questions,
        before=float(before.mean()),
        after=float(after.mean()),
        difference=difference,
        low=max(-1.0, centre - reach),
        high=min(1.0, centre + reach),
        gained=gained,
        lost=lost,
        p_value=float(binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0,
    )


def _adjusted(gained: int, lost: int, questions: int) -> tuple[float, float]:
    """Centre and standard error of the adjusted Wald interval: one gain and one loss are added."""
    more, less = (gained + 1) / (questions + 2), (lost + 1) / (questions + 2)
    return more - less, math.sqrt((more + less - (more - less) ** 2) / (questions + 2))


def _chief(differences: Sequence[PairedDifference]) -> Iterator[PairedDifference]:
    """The difference of each task by the metric that speaks for it."""
    for task in dict.fromkeys(each.task for each in differences):
        own = {each.metric: each for each in differences if each.task == task}
        yield next((own[metric] for metric in _PREFERRED if metric in own), next(iter(own.values())))


def _mean(differences: Sequence[PairedDifference]) -> PairedDifference:
    adjusted = [_adjusted(each.gained, each.lost, each.questions) for each in differences]
    count = len(differences)
    centre = sum(each for each, _ in adjusted) / count
    reach = float(norm.ppf(0.5 + CONFIDENCE / 2)) * math.sqrt(sum(error**2 for _, error in adjusted)) / count
    return PairedDifference(
        task=ALL_TASKS,
        metric="acc_norm or acc",
        questions=sum(each.questions for each in differences),
        before=sum(each.before for each in differences) / count,
        after=sum(each.after for each in differences) / count,
        difference=sum(each.difference for each in differences) / count,
        low=centre - reach,
        high=centre + reach,
        gained=sum(each.gained for each in differences),
        lost=sum(each.lost for each in differences),
    )
