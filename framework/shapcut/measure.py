"""What a model is worth and what it costs: perplexity, parameters, memory, latency."""

import importlib.util
import sys
from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict
from torch import nn

from shapcut.adapter import Adapter
from shapcut.cache_size import CacheSizes
from shapcut.calibration import Calibration
from shapcut.latency import LatencyResult, latency
from shapcut.perplexity import PerplexityResult, perplexity, sliding_perplexity
from shapcut.progress import Reporter

__all__ = [
    "CacheSizes",
    "LatencyResult",
    "ModelMeasurement",
    "PerplexityResult",
    "TaskScore",
    "checkpoint_bytes",
    "latency",
    "measure",
    "parameter_count",
    "peak_memory_bytes",
    "perplexity",
    "restart_peak_memory",
    "sliding_perplexity",
    "weight_bytes",
]

WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pth", ".pt", ".gguf")
_STATUS, _RESTART = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_PEAK, _KIBIBYTE = "VmHWM:", 1024


class TaskScore(BaseModel):
    """What a model reached on one task of lm-evaluation-harness.

    Attributes:
        task: the task's name.
        samples: number of its examples that were asked.
        shots: number of solved examples before each question.
        metrics: by name, as the task gives them: accuracy, perplexity, ...
        errors: standard errors of those metrics that have one.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")

    task: str
    samples: int
    shots: int
    metrics: dict[str, float]
    errors: dict[str, float]


class ModelMeasurement(BaseModel):
    """All figures of one model; ``model_dump_json()`` writes infinities and NaN as strings.

    Attributes:
        parameters: number of distinct parameters.
        weight_bytes: memory of parameters and buffers.
        checkpoint_bytes: size of the weight files, or None if there are none.
        peak_memory_bytes: the most that this process has held (on a GPU: that was allocated there) so far,
            or since the figure was started anew; None where the platform cannot tell.
        perplexity: on the held-out text.
        held_out_source: where the text came from.
        held_out_fingerprint: of its token ids.
        sequence_length: tokens a window.
        stride: tokens by which overlapping windows move on; None: each window is read on its own.
        adds_bos: whether each window begins with a BOS token.
        latency: None if it was not measured.
        caches: what generation remembers; None if it was not measured.
        tasks: of lm-evaluation-harness; None if there were none.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")

    parameters: int
    weight_bytes: int
    checkpoint_bytes: int | None
    peak_memory_bytes: int | None
    perplexity: PerplexityResult
    held_out_source: str
    held_out_fingerprint: str
    sequence_length: int
    adds_bos: bool
    latency: LatencyResult | None
    stride: int | None = None
    caches: CacheSizes | None = None
    tasks: tuple[TaskScore, ...] | None = None


def measure(
    adapter: Adapter,
    model: nn.Module,
    held_out: Calibration,
    *,
    batch_size: int = 8,
    files: Path | None = None,
    with_latency: bool = True,
    seed: int = 0,
    reporter: Reporter | None = None,
) -> ModelMeasurement:
    """Quality, size and speed of a model.

    Args:
        adapter: the model's adapter.
        model: in evaluation mode.
        held_out: text that nothing was chosen on.
        batch_size: windows a forward pass.
        files: the directory or file that the model was read from or written to.
        with_latency: whether to measure latency too.
        seed: of the prompt for the latency.
        reporter: told how far it is.
    """
    return ModelMeasurement(
        parameters=parameter_count(model),
        weight_bytes=weight_bytes(model),
        checkpoint_bytes=None if files is None else checkpoint_bytes(files),
        perplexity=perplexity(adapter, model, held_out.input_ids, batch_size=batch_size, reporter=reporter),
        held_out_source=held_out.source,
        held_out_fingerprint=held_out.fingerprint,
        sequence_length=held_out.sequence_length,
        adds_bos=held_out.adds_bos,
        latency=latency(adapter, model, seed=seed, reporter=reporter) if with_latency else None,
        peak_memory_bytes=peak_memory_bytes(adapter.input_device(model)),
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


def peak_memory_bytes(device: torch.device | None = None) -> int | None:
    """The most memory held so far: on a GPU what was allocated, else this process's peak resident set.

    Returns:
        Bytes, or None where the platform cannot tell.
    """
    if device is not None and device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if _STATUS.exists():
        lines = _STATUS.read_text(encoding="utf-8").splitlines()
        return next((int(line.split()[1]) * _KIBIBYTE for line in lines if line.startswith(_PEAK)), None)
    if importlib.util.find_spec("resource") is None:
        return None
    import resource  # noqa: PLC0415 - not on every system

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * _KIBIBYTE


def restart_peak_memory() -> bool:
    """Let `peak_memory_bytes` count anew from what is held now.

    Returns:
        Whether the platform can do that; elsewhere the peak stays that of everything before.
    """
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    try:
        _RESTART.write_text("5", encoding="ascii")
    except OSError:
        return False
    return True
