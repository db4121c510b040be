"""Verdicts on an engine's answers, from answers made by hand."""

import math

import pytest

from shapcut.serving.answer import Answer, PromptAnswer, Refusal
from shapcut.serving.verdict import Agreement, Verdict, accepted_difference, agreement, judge

ACCEPTED = 1e-3


def answer(*, shift: float = 0.0, greedy: tuple[int, ...] = (5, 6, 7), gap: float = 0.5) -> Answer:
    """An answer on one prompt, with its log-probabilities shifted and a gap after the likeliest token."""
    likeliest = tuple({token: -1.0 + shift, token + 10: -1.0 + shift - gap} for token in (5, 6, 7))
    chosen = tuple({**one, token: one.get(token, -9.0)} for one, token in zip(likeliest, greedy, strict=True))
    prompt = PromptAnswer(log_probabilities=(-2.0 + shift, -3.0), greedy=greedy, likeliest=chosen)
    return Answer(version="1", prompts=(prompt,))


def agreeing(difference: float) -> Agreement:
    return Agreement(prompt_difference=difference, decoding_difference=0.0, divergences=(), new_tokens=3)


def test_equal_answers_disagree_by_nothing():
    found = agreement(answer(), answer())
    assert found.disagreement == 0.0
    assert found.divergences == ()


def test_differences_of_prompt_and_decoding_are_kept_apart():
    found = agreement(answer(shift=0.25), answer())
    assert found.prompt_difference == pytest.approx(0.25)
    assert found.decoding_difference == pytest.approx(0.25)
    changed = answer().prompts[0].model_copy(update={"log_probabilities": (-2.5, -3.0)})
    only_prompt = agreement(Answer(version="1", prompts=(changed,)), answer())
    assert only_prompt.prompt_difference == pytest.approx(0.5)
    assert only_prompt.decoding_difference == 0.0


def test_a_nan_is_an_infinite_difference_that_json_keeps():
    found = agreement(answer(shift=math.nan), answer())
    assert math.isinf(found.disagreement)
    assert Agreement.model_validate_json(found.model_dump_json()) == found


def test_greedy_tokens_part_at_the_first_difference_with_the_gap_there():
    found = agreement(answer(greedy=(5, 16, 9)), answer(gap=0.002))
    parted = found.divergences[0]
    assert (parted.prompt, parted.place, parted.expected, parted.found) == (0, 1, 6, 16)
    assert parted.gap == pytest.approx(0.002)
    assert found.disagreement == pytest.approx(0.001)  # a near-tie: two errors of half the gap close it


def test_a_token_that_is_not_among_the_likeliest_has_at_least_the_gap_to_the_last_of_them():
    found = agreement(answer(greedy=(99, 6, 7)), answer(gap=0.5))
    assert found.divergences[0].gap == pytest.approx(0.5)


def test_what_follows_a_divergence_is_not_compared():
    found = agreement(answer(shift=0.0, greedy=(15, 6, 7)), answer())
    assert found.decoding_difference == 0.0


@pytest.mark.parametrize(
    ("cut", "original", "verdict"),
    [
        (agreeing(1e-4), agreeing(1e-4), Verdict.EQUAL),
        (agreeing(1e-4), agreeing(1.0), Verdict.EQUAL),
        (agreeing(1e-4), Refusal(refusal="no"), Verdict.EQUAL),
        (agreeing(0.2), agreeing(0.1), Verdict.LIKE_UNCUT),
        (agreeing(0.2), agreeing(1e-4), Verdict.WORSE),
        (agreeing(0.5), agreeing(0.1), Verdict.MORE),
        (agreeing(0.5), Refusal(refusal="no"), Verdict.ALONE),
        (Refusal(refusal="no"), agreeing(0.0), Verdict.REFUSED),
        (Refusal(refusal="no"), Refusal(refusal="no"), Verdict.UNSUPPORTED),
    ],
)
def test_the_uncut_model_is_the_control(
    cut: Agreement | Refusal, original: Agreement | Refusal, verdict: Verdict
):
    assert judge(cut, original, ACCEPTED) is verdict


def test_only_equal_and_alike_are_good_and_only_refusals_are_refused():
    assert {one for one in Verdict if one.good} == {Verdict.EQUAL, Verdict.LIKE_UNCUT}
    assert {one for one in Verdict if one.refused} == {Verdict.UNSUPPORTED, Verdict.REFUSED}


def test_coarser_formats_accept_more_and_an_engine_never_less_than_its_own():
    assert accepted_difference(1e-3, "float32") == 1e-3
    assert 1e-3 < accepted_difference(1e-3, "float16") < accepted_difference(1e-3, "bfloat16")
    assert accepted_difference(0.9, "bfloat16") == 0.9
