"""What an engine is asked about a model, and what it answers."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

TOP = 20
"""Likeliest tokens that an engine tells of at each place of a continuation."""


class Request(BaseModel):
    """A request to an engine's script, as JSON.

    Attributes:
        model: path of the directory or file to load.
        config: values that replace those of transformers' config, where a file says more than it reads.
        dtype: number format of the computation, as torch names it.
        trust_remote_code: whether code that comes with the model may run.
        vocabulary: number of tokens.
        threads: of the processor; None: the engine's default.
        prompts: token ids.
        new_tokens: length of the greedy continuation of each prompt, never stopped by an end token.
        top: likeliest tokens to tell of, at each place of a continuation.
        cached: whether to decode with a cache.
        timed_prompt: token ids of the prompt that is timed.
        timed_tokens: new tokens that are timed.
        repeats: measurements whose median counts; 0: time nothing.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str
    config: dict[str, Any] = Field(default_factory=dict)
    dtype: str = "float32"
    trust_remote_code: bool = False
    vocabulary: int
    threads: int | None = None
    prompts: tuple[tuple[int, ...], ...]
    new_tokens: int = 16
    top: int = TOP
    cached: bool = True
    timed_prompt: tuple[int, ...]
    timed_tokens: int = 32
    repeats: int = 3


class PromptAnswer(BaseModel):
    """An engine's answer on one prompt.

    Attributes:
        log_probabilities: of each token of the prompt but the first.
        greedy: the continuation.
        likeliest: the log-probabilities of the likeliest tokens at each place of the continuation.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    log_probabilities: tuple[float, ...]
    greedy: tuple[int, ...]
    likeliest: tuple[dict[int, float], ...]


class Answer(BaseModel):
    """An engine's answer on one model.

    Attributes:
        version: the engine's.
        prompts: one answer for each prompt.
        prompt_tokens_per_second: of reading; None if it was not timed.
        decode_tokens_per_second: of writing; None if it was not timed, or too fast for the clock.
        peak_memory_bytes: of the engine's process.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", ser_json_inf_nan="strings")

    version: str
    prompts: tuple[PromptAnswer, ...]
    prompt_tokens_per_second: float | None = None
    decode_tokens_per_second: float | None = None
    peak_memory_bytes: int | None = None


class Refusal(BaseModel):
    """An engine's exception, or how its process ended.

    Attributes:
        refusal: one line.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    refusal: str
