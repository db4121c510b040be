"""Compare an engine's answers with transformers', for the cut model and for the uncut one."""

import math
from collections.abc import Sequence
from enum import StrEnum

from pydantic import BaseModel, ConfigDict

from shapcut.serving.answer import Answer, PromptAnswer, Refusal

_LIKE_UNCUT = 3.0
"""Up to how many times the uncut model's disagreement the cut one's counts as alike."""

_ROUNDING = {"float32": 0.0, "float16": 0.05, "bfloat16": 0.25}
"""The accepted difference of log-probabilities by number format, where it is above the engine's own."""


class Divergence(BaseModel):
    """Where an engine's greedy continuation first leaves transformers'.

    Attributes:
        prompt: number of the prompt, from 0.
        place: number of the new token, from 0.
        expected: transformers' token.
        found: the engine's token.
        gap: transformers' log-probability of its token less that of the engine's; at least that, if the
            engine's is not among its likeliest.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    prompt: int
    place: int
    expected: int
    found: int
    gap: float


class Agreement(BaseModel):
    """Agreement of an engine's answer on a model with transformers'.

    Attributes:
        prompt_difference: the largest difference of the log-probabilities of the prompts' tokens.
        decoding_difference: likewise, of the greedy tokens up to the first divergence.
        divergences: the first of each prompt.
        new_tokens: length of each continuation.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")

    prompt_difference: float
    decoding_difference: float
    divergences: tuple[Divergence, ...]
    new_tokens: int

    @property
    def disagreement(self) -> float:
        """The error of a log-probability that explains everything: two of them close a gap."""
        gaps = [divergence.gap / 2 for divergence in self.divergences]
        return max([self.prompt_difference, self.decoding_difference, *gaps])

    @property
    def largest_gap(self) -> Divergence | None:
        """The divergence that a near-tie explains least."""
        return max(self.divergences, key=lambda divergence: divergence.gap, default=None)


def agreement(found: Answer, expected: Answer) -> Agreement:
    """Compare an engine's answer with transformers'; both are on the same prompts."""
    pairs = list(zip(found.prompts, expected.prompts, strict=True))
    divergences = [_divergence(number, *pair) for number, pair in enumerate(pairs)]
    ends = [
        len(one.greedy) if at is None else at.place for (one, _), at in zip(pairs, divergences, strict=True)
    ]
    return Agreement(
        prompt_difference=max(
            _largest(one.log_probabilities, other.log_probabilities) for one, other in pairs
        ),
        decoding_difference=max(
            _largest(_of_greedy(one, end), _of_greedy(other, end))
            for (one, other), end in zip(pairs, ends, strict=True)
        ),
        divergences=tuple(divergence for divergence in divergences if divergence is not None),
        new_tokens=min(len(other.greedy) for _, other in pairs),
    )


def _largest(one: Sequence[float], other: Sequence[float]) -> float:
    """The largest difference; infinite if there is a NaN."""
    differences = [abs(a - b) for a, b in zip(one, other, strict=True)]
    return float("inf") if any(map(math.isnan, differences)) else max(differences, default=0.0)


def _of_greedy(answer: PromptAnswer, end: int) -> list[float]:
    return [answer.likeliest[place][answer.greedy[place]] for place in range(end)]


def _divergence(number: int, found: PromptAnswer, expected: PromptAnswer) -> Divergence | None:
    for place, (one, other) in enumerate(zip(found.greedy, expected.greedy, strict=True)):
        if one != other:
            known = expected.likeliest[place]
            gap = known[other] - known.get(one, min(known.values()))
            return Divergence(prompt=number, place=place, expected=other, found=one, gap=gap)
    return None


class Verdict(StrEnum):
    """What the comparison says of the cut."""

    EQUAL = "equal"
    LIKE_UNCUT = "differs as the uncut one does"
    WORSE = "differs though the uncut one is equal"
    MORE = "differs more than the uncut one does"
    ALONE = "differs, and the engine refuses the uncut one"
    UNSUPPORTED = "the engine does not support this model uncut either"
    REFUSED = "the engine refuses the cut only"

    @property
    def good(self) -> bool:
        """Whether the cut is served as the uncut model is."""
        return self in {Verdict.EQUAL, Verdict.LIKE_UNCUT}

    @property
    def refused(self) -> bool:
        """Whether the engine loads no cut."""
        return self in {Verdict.UNSUPPORTED, Verdict.REFUSED}


def accepted_difference(of_engine: float, dtype: str) -> float:
    """The largest difference that counts as equal in a number format."""
    return max(of_engine, _ROUNDING.get(dtype, 0.0))


def judge(cut: Agreement | Refusal, original: Agreement | Refusal, accepted: float) -> Verdict:
    """The verdict on a cut model, with the uncut one as a control.

    Args:
        cut: the engine's agreement with transformers on the cut model, or its refusal.
        original: likewise, on the uncut model.
        accepted: the largest disagreement that counts as equal.
    """
    if isinstance(cut, Refusal):
        return Verdict.UNSUPPORTED if isinstance(original, Refusal) else Verdict.REFUSED
    if cut.disagreement <= accepted:
        return Verdict.EQUAL
    if isinstance(original, Refusal):
        return Verdict.ALONE
    if original.disagreement <= accepted:
        return Verdict.WORSE
    return Verdict.LIKE_UNCUT if cut.disagreement <= _LIKE_UNCUT * original.disagreement else Verdict.MORE
