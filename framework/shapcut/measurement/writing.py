"""What a model writes, and the texts that a pruned model reads worse than the original."""

from collections.abc import Sequence
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from shapcut.models.adapter import Adapter

_PROMPTS = 3
_PROMPT_TOKENS = 24
_NEW_TOKENS = 24
_WORST = 3
_LONGEST_TEXT = 320


class Writing(BaseModel):
    """What one model does with held-out windows.

    Attributes:
        continuations: greedy continuations of the first tokens of some windows, as token ids.
        nats: loss per token of each window.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")

    continuations: tuple[tuple[int, ...], ...]
    nats: tuple[float, ...]


class Continuation(BaseModel):
    """The same text continued by two models, greedily."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    prompt: str
    dense: str
    pruned: str


class WorseText(BaseModel):
    """The beginning of a held-out window, and the loss per token of two models on all of it."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")

    text: str
    dense_nats: float
    pruned_nats: float


class WritingComparison(BaseModel):
    """What two models write, and where the second one got worse.

    Attributes:
        continuations: of a few held-out texts.
        worse: the texts whose loss grew most, the worst first; only texts whose loss grew.
        windows: number of held-out windows.
        grew: number of them whose loss grew.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    continuations: tuple[Continuation, ...]
    worse: tuple[WorseText, ...]
    windows: int
    grew: int


def written(
    adapter: Adapter, model: nn.Module, windows: Tensor, nats: Sequence[float], new_tokens: int = _NEW_TOKENS
) -> Writing:
    """Let a model continue the beginnings of some windows.

    Args:
        adapter: the model's adapter.
        model: in evaluation mode.
        windows: token ids, shape (windows, length).
        nats: the model's loss per token of each window.
        new_tokens: length of a continuation.
    """
    prompts = _prompts(windows)
    device, length = adapter.input_device(model), prompts.shape[1]
    found = adapter.generate(model, prompts.to(device), new_tokens, use_cache=True)[:, length:]
    return Writing(continuations=tuple(tuple(each.tolist()) for each in found), nats=tuple(nats))


def compared_writing(
    dense: Writing | None, pruned: Writing | None, windows: Tensor, tokenizer: Any
) -> WritingComparison | None:
    """Both models' writing as short texts; None if one is unknown or the tokenizer cannot decode."""
    if dense is None or pruned is None or not hasattr(tokenizer, "decode"):
        return None
    growth = torch.tensor(pruned.nats, dtype=torch.float64) - torch.tensor(dense.nats, dtype=torch.float64)
    growth = growth.nan_to_num(nan=torch.inf)
    worst = [place for place in growth.argsort(descending=True).tolist() if growth[place] > 0.0]
    texts = zip(_prompts(windows), dense.continuations, pruned.continuations, strict=True)
    return WritingComparison(
        continuations=tuple(
            Continuation(
                prompt=_text(tokenizer, prompt.tolist()),
                dense=_text(tokenizer, one),
                pruned=_text(tokenizer, other),
            )
            for prompt, one, other in texts
        ),
        worse=tuple(
            WorseText(
                text=_text(tokenizer, windows[place].tolist()),
                dense_nats=dense.nats[place],
                pruned_nats=pruned.nats[place],
            )
            for place in worst[:_WORST]
        ),
        windows=len(windows),
        grew=len(worst),
    )


def _prompts(windows: Tensor) -> Tensor:
    """The first tokens of some windows, evenly spread."""
    count = min(_PROMPTS, len(windows))
    places = [len(windows) * number // count for number in range(count)]
    return windows[places, : max(1, min(_PROMPT_TOKENS, windows.shape[1] // 2))]


def _text(tokenizer: Any, ids: Sequence[int]) -> str:
    """Tokens as one short line."""
    line = " ".join(str(tokenizer.decode(list(ids))).split())
    return line if len(line) <= _LONGEST_TEXT else f"{line[:_LONGEST_TEXT]} ..."
