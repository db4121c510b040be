"""Latency of generation: prefill and decode, measured separately."""

import statistics
import time

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from shapcut.models.adapter import Adapter
from shapcut.support.progress import Reporter, Silent
from shapcut.support.quiet import quiet_libraries


class LatencyResult(BaseModel):
    """Median seconds of the two phases of generation.

    Attributes:
        prefill_seconds: to read the prompts, up to the first new token of each.
        decode_seconds: for one further token of each sequence, with a cache.
        prompt_tokens: length of a prompt.
        new_tokens: decode steps averaged in one measurement.
        repeats: number of measurements.
        batch_size: sequences generated at a time.
        prefill_samples: seconds of each measurement, whose median is ``prefill_seconds``.
        decode_samples: as ``prefill_samples``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    prefill_seconds: float
    decode_seconds: float
    prompt_tokens: int
    new_tokens: int
    repeats: int
    batch_size: int = 1
    prefill_samples: tuple[float, ...] = ()
    decode_samples: tuple[float, ...] = ()

    @property
    def prefill_tokens_per_second(self) -> float | None:
        """Prompt tokens read per second, over all sequences."""
        return _rate(self.batch_size * self.prompt_tokens, self.prefill_seconds)

    @property
    def decode_tokens_per_second(self) -> float | None:
        """New tokens per second, over all sequences; None if a step is too short for the clock."""
        return _rate(self.batch_size, self.decode_seconds)


def latency(
    adapter: Adapter,
    model: nn.Module,
    *,
    prompt_tokens: int = 128,
    new_tokens: int = 16,
    repeats: int = 5,
    batch_size: int = 1,
    seed: int = 0,
    reporter: Reporter | None = None,
) -> LatencyResult:
    """Time prefill and one cached decode step on random tokens.

    The time of a decode step is the difference between generating ``new_tokens + 1`` tokens and one, divided
    by ``new_tokens``. Both results are medians.

    Args:
        adapter: the model's adapter.
        model: in evaluation mode.
        prompt_tokens: length of a prompt.
        new_tokens: decode steps per measurement.
        repeats: number of measurements, after one warm-up.
        batch_size: sequences at a time.
        seed: of the prompts.
        reporter: for progress.
    """
    prompt = random_prompt(adapter, model, prompt_tokens, seed, batch_size)
    prefill: list[float] = []
    decode: list[float] = []
    with quiet_libraries(), (reporter or Silent()).counting("timing generation", repeats) as count:
        generation_seconds(adapter, model, prompt, 2)
        for repeat in range(repeats):
            first = generation_seconds(adapter, model, prompt, 1)
            all_tokens = generation_seconds(adapter, model, prompt, new_tokens + 1)
            prefill.append(first)
            decode.append((all_tokens - first) / new_tokens)
            count(repeat + 1)
    return LatencyResult(
        prefill_seconds=statistics.median(prefill),
        decode_seconds=max(statistics.median(decode), 0.0),
        prompt_tokens=prompt_tokens,
        new_tokens=new_tokens,
        repeats=repeats,
        batch_size=batch_size,
        prefill_samples=tuple(prefill),
        decode_samples=tuple(decode),
    )


def random_prompt(adapter: Adapter, model: nn.Module, length: int, seed: int, batch_size: int = 1) -> Tensor:
    """Sequences of random tokens, shape (batch_size, length)."""
    device = adapter.input_device(model)
    vocabulary = adapter.logits(model, torch.zeros(1, 1, dtype=torch.int64, device=device)).shape[-1]
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(vocabulary, (batch_size, length), generator=generator).to(device)


def generation_seconds(adapter: Adapter, model: nn.Module, prompt: Tensor, new_tokens: int) -> float:
    """Wall-clock seconds to read prompts and generate ``new_tokens`` for each."""
    begin = time.perf_counter()
    adapter.generate(model, prompt, new_tokens, use_cache=True)
    if prompt.is_cuda:
        torch.cuda.synchronize(prompt.device)
    return time.perf_counter() - begin


def _rate(tokens: int, seconds: float) -> float | None:
    return tokens / seconds if seconds > 0 else None
