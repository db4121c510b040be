"""What a model is worth and what it costs: perplexity, parameters, memory, latency."""

import sys
import time
from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from shapcut.adapter import Adapter
from shapcut.calibration import Calibration
from shapcut.perplexity import PerplexityResult, perplexity, sliding_perplexity
from shapcut.silence import quiet_libraries

__all__ = [
    "LatencyResult",
    "ModelMeasurement",
    "PerplexityResult",
    "checkpoint_bytes",
    "latency",
    "measure",
    "parameter_count",
    "peak_memory_bytes",
    "perplexity",
    "sliding_perplexity",
    "weight_bytes",
]

WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pth", ".pt", ".gguf")


class LatencyResult(BaseModel):
    """Fastest seconds of the two phases of generation, one sequence at a time.

    Attributes:
        prefill_seconds: reading the prompt, up to the first new token.
        decode_seconds: one further token with a cache.
        prompt_tokens: length of the prompt.
        new_tokens: number of decode steps that one measurement averages over.
        repeats: number of measurements.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    prefill_seconds: float
    decode_seconds: float
    prompt_tokens: int
    new_tokens: int
    repeats: int


class ModelMeasurement(BaseModel):
    """All figures of one model; ``model_dump_json()`` writes infinities and NaN as strings.

    Attributes:
        parameters: number of distinct parameters.
        weight_bytes: memory of parameters and buffers.
        checkpoint_bytes: size of the weight files, or None if there are none.
        peak_memory_bytes: the most that this process has held so far.
        perplexity: on the held-out text.
        held_out_source: where the text came from.
        held_out_fingerprint: of its token ids.
        sequence_length: tokens a window; each window is read on its own.
        adds_bos: whether each window begins with a BOS token.
        latency: None if it was not measured.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")

    parameters: int
    weight_bytes: int
    checkpoint_bytes: int | None
    peak_memory_bytes: int
    perplexity: PerplexityResult
    held_out_source: str
    held_out_fingerprint: str
    sequence_length: int
    adds_bos: bool
    latency: LatencyResult | None


def measure(
    adapter: Adapter,
    model: nn.Module,
    held_out: Calibration,
    *,
    batch_size: int = 8,
    files: Path | None = None,
    with_latency: bool = True,
    seed: int = 0,
) -> ModelMeasurement:
    """All figures of a model.

    Args:
        adapter: the model's adapter.
        model: in evaluation mode.
        held_out: text that nothing was chosen on.
        batch_size: windows a forward pass.
        files: the directory or file that the model was read from or written to.
        with_latency: whether to measure latency too.
        seed: of the prompt for the latency.
    """
    return ModelMeasurement(
        parameters=parameter_count(model),
        weight_bytes=weight_bytes(model),
        checkpoint_bytes=None if files is None else checkpoint_bytes(files),
        perplexity=perplexity(adapter, model, held_out.input_ids, batch_size=batch_size),
        held_out_source=held_out.source,
        held_out_fingerprint=held_out.fingerprint,
        sequence_length=held_out.sequence_length,
        adds_bos=held_out.adds_bos,
        latency=latency(adapter, model, seed=seed) if with_latency else None,
        peak_memory_bytes=peak_memory_bytes(),
    )


def latency(
    adapter: Adapter,
    model: nn.Module,
    *,
    prompt_tokens: int = 128,
    new_tokens: int = 16,
    repeats: int = 5,
    seed: int = 0,
) -> LatencyResult:
    """Time of prefill and of one cached decode step, for one sequence of random tokens.

    A decode step is the difference between generating ``new_tokens + 1`` tokens and one, shared out. The
    fastest of several measurements counts: whatever else the machine does only makes them longer.

    Args:
        adapter: the model's adapter.
        model: in evaluation mode.
        prompt_tokens: length of the prompt.
        new_tokens: decode steps a measurement.
        repeats: number of measurements, after one that is thrown away.
        seed: of the prompt.
    """
    prompt = random_prompt(adapter, model, prompt_tokens, seed)
    short, long = [], []
    with quiet_libraries():
        generation_seconds(adapter, model, prompt, 2)
        for _ in range(repeats):
            short.append(generation_seconds(adapter, model, prompt, 1))
            long.append(generation_seconds(adapter, model, prompt, new_tokens + 1))
    return LatencyResult(
        prefill_seconds=min(short),
        decode_seconds=max(min(long) - min(short), 0.0) / new_tokens,
        prompt_tokens=prompt_tokens,
        new_tokens=new_tokens,
        repeats=repeats,
    )


def parameter_count(model: nn.Module) -> int:
    """Number of distinct parameters: tied ones count once."""
    return sum(parameter.numel() for parameter in model.parameters())


def weight_bytes(model: nn.Module) -> int:
    """Memory of the distinct parameters and buffers."""
    tensors = [*model.parameters(), *model.buffers()]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def checkpoint_bytes(path: Path) -> int:
    """Size of a checkpoint's one file, or of the weight files directly in its directory."""
    files = path.iterdir() if path.is_dir() else (path,)
    return sum(file.stat().st_size for file in files if file.suffix in WEIGHT_SUFFIXES)


def peak_memory_bytes() -> int:
    """The most memory that this process has held so far (its peak resident set)."""
    import resource  # noqa: PLC0415 - not on every system

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def random_prompt(adapter: Adapter, model: nn.Module, length: int, seed: int) -> Tensor:
    """One sequence of random tokens, shape (1, length)."""
    device = adapter.input_device(model)
    vocabulary = adapter.logits(model, torch.zeros(1, 1, dtype=torch.int64, device=device)).shape[-1]
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(vocabulary, (1, length), generator=generator).to(device)


def generation_seconds(adapter: Adapter, model: nn.Module, prompt: Tensor, new_tokens: int) -> float:
    """Wall-clock seconds of reading a prompt and making so many tokens."""
    begin = time.perf_counter()
    adapter.generate(model, prompt, new_tokens, use_cache=True)
    if prompt.is_cuda:
        torch.cuda.synchronize(prompt.device)
    return time.perf_counter() - begin
