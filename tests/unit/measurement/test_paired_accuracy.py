"""Paired differences of accuracies, against values worked out by hand."""

import math

import pytest

from shapcut.measurement.paired_accuracy import ALL_TASKS, paired_differences
from shapcut.measurement.record import TaskScore


def score(task: str, answers: dict[str, str], questions: str = "q") -> TaskScore:
    accuracies = {metric: digits.count("1") / len(digits) for metric, digits in answers.items()}
    return TaskScore(
        task=task, samples=10, shots=0, metrics=accuracies, errors={}, answers=answers, questions=questions
    )


def test_one_task_by_hand() -> None:
    (found,) = paired_differences([score("t", {"acc": "1110000000"})], [score("t", {"acc": "1001110000"})])
    assert (found.before, found.after, found.gained, found.lost) == (0.3, 0.4, 3, 2)
    more, less = 4 / 12, 3 / 12
    reach = 1.959963984540054 * math.sqrt((more + less - (more - less) ** 2) / 12)
    assert (found.low, found.high) == pytest.approx((more - less - reach, more - less + reach))
    assert found.p_value == pytest.approx(1.0)  # 3 of 5
    assert not found.told_apart


def test_only_questions_answered_differently_widen_the_interval() -> None:
    before, after = "1" * 60 + "0" * 40, "0" * 10 + "1" * 50 + "0" * 40
    (found,) = paired_differences([score("t", {"acc": before})], [score("t", {"acc": after})])
    assert found.difference == pytest.approx(-0.1)
    assert found.told_apart
    assert found.p_value == pytest.approx(2 * 0.5**10)
    unpaired = 1.96 * math.sqrt(0.6 * 0.4 / 100 + 0.5 * 0.5 / 100)
    assert found.high - found.low < unpaired < 2 * unpaired


def test_several_tasks_end_with_their_mean_by_the_normalised_accuracy() -> None:
    before = [score("a", {"acc": "1111", "acc_norm": "1100"}), score("b", {"acc": "0000"})]
    after = [score("a", {"acc": "0000", "acc_norm": "1110"}), score("b", {"acc": "1111"})]
    *each, mean = paired_differences(before, after)
    assert [(found.task, found.metric) for found in each] == [("a", "acc"), ("a", "acc_norm"), ("b", "acc")]
    assert mean.task == ALL_TASKS
    assert (mean.before, mean.after, mean.difference) == pytest.approx((0.25, 0.875, 0.625))
    assert mean.low < 0.625 < mean.high + 0.4
    assert mean.p_value is None


def test_other_questions_are_not_paired() -> None:
    one, other = score("t", {"acc": "10"}), score("t", {"acc": "10"}, questions="others")
    assert paired_differences([one], [other]) == ()
    assert paired_differences([one], None) == ()
    assert paired_differences([score("t", {"acc": "10"}, questions="")] * 2, [one]) == ()
