"""Text held back from a step, and the trial of its result."""

import math

import pytest
import torch

from shapcut.measurement.perplexity import PerplexityResult
from shapcut.steps.held_back import hold_back, tried_against


def of(*nats: float) -> PerplexityResult:
    return PerplexityResult.of([10 * each for each in nats], [10] * len(nats))


@pytest.mark.parametrize(("count", "expected"), [(1, 0), (2, 1), (16, 2), (64, 8), (1000, 16)])
def test_some_windows_of_each_text_are_held_back(count: int, expected: int) -> None:
    windows = torch.arange(count * 4).view(count, 4)
    fitted, held = hold_back({"text": windows})
    assert len(held.get("text", [])) == expected
    together = torch.cat([fitted["text"], *held.values()])
    assert sorted(together[:, 0].tolist()) == windows[:, 0].tolist()
    if expected > 1:
        gaps = held["text"][1:, 0] - held["text"][:-1, 0]
        assert int(gaps.max()) - int(gaps.min()) <= 4


def test_a_result_that_is_better_on_every_text_is_an_improvement() -> None:
    found = tried_against(
        {"a": of(3, 3.1, 3.2), "b": of(2, 2, 2)}, {"a": of(2.8, 2.9, 3), "b": of(1.9, 2, 1.9)}
    )
    assert found.improves
    assert not found.worse
    assert found.ratios["a"] is not None
    assert found.ratios["a"].value == pytest.approx(math.exp(-0.2))
    assert "a -18.1%" in found.summary()


def test_one_text_that_is_clearly_worse_is_enough_to_refuse() -> None:
    before = {"a": of(3, 3.1, 3.2), "b": of(2, 2.1, 2.2)}
    found = tried_against(before, {"a": of(2, 2.1, 2.2), "b": of(2.1, 2.21, 2.3)})
    assert found.worse == ("b",)
    assert found.mean < 1
    assert not found.improves


def test_a_text_that_is_worse_within_its_interval_is_not_refused() -> None:
    before = {"a": of(3, 3.1, 3.2), "b": of(2, 2.1, 2.2)}
    found = tried_against(before, {"a": of(2, 2.1, 2.2), "b": of(2.5, 1.8, 2.1)})
    assert found.ratios["b"] is not None
    assert found.ratios["b"].value > 1
    assert found.improves


def test_no_loss_at_all_is_worse() -> None:
    found = tried_against({"a": of(3, 3)}, {"a": of(math.inf, 3)})
    assert found.worse == ("a",)
    assert not found.improves
    assert "not finite" in found.summary()
