"""The step that quantizes with llm-compressor, into the format compressed-tensors."""

from typing import Any, ClassVar, Literal

from torch import nn

from shapcut.contracts import StepContext, StoredModel
from shapcut_plugins.quantize.base import (
    GROUP_SIZES,
    Quantizer,
    checked_choice,
    checked_samples,
    output_embedding_name,
)
from shapcut_plugins.quantize.process import checked_result, quantized_elsewhere

Scheme = Literal["W2A16", "W3A16", "W4A16", "W8A16", "W8A8"]

_DEFAULT_GROUP = 64
_ACTIVATIONS = {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "token", "dynamic": True}


class CompressedTensors(Quantizer):
    """Quantize with llm-compressor, in a separate process.

    Plain transformers loads the checkpoint with compressed-tensors, which unpacks it: smaller on disk, not in
    memory. Other engines compute with the packed weights.

    Args:
        scheme: bits of weights and activations; 8-bit activations are quantized dynamically.
        group_size: weights that share a scale; default 64; W8A8 has no groups but a scale per row.
        algorithm: ``gptq`` (uses the calibration text) or ``rtn`` (round to nearest).
        samples: calibration windows; default: as many as coalitions are measured on.
    """

    name: ClassVar[str] = "compressed-tensors"
    packages: ClassVar[tuple[str, ...]] = ("llmcompressor", "compressed_tensors", "datasets")
    install: ClassVar[str] = (
        "pip install 'shapcut[compressed-tensors]' && pip install --no-deps llmcompressor -c constraints.txt"
    )

    def __init__(
        self,
        scheme: Scheme = "W4A16",
        group_size: int | None = None,
        algorithm: Literal["gptq", "rtn"] = "gptq",
        samples: int | None = None,
    ) -> None:
        if scheme == "W8A8" and group_size is not None:
            raise ValueError(
                f"group_size={group_size} is unavailable with scheme=W8A8, which has a scale per row"
            )
        self.scheme = scheme
        self.algorithm = algorithm
        self.samples = checked_samples(samples)
        self._group_size = (
            None
            if scheme == "W8A8"
            else checked_choice("group_size", group_size or _DEFAULT_GROUP, GROUP_SIZES)
        )

    @property
    def group_size(self) -> int | None:
        """Weights that share a scale, or None for whole rows."""
        return self._group_size

    def run(self, model: nn.Module, context: StepContext) -> StoredModel:
        """Save the pruned model, quantize it in another process, load the result."""
        head = output_embedding_name(model)
        options = {
            "algorithm": self.algorithm,
            "ignore": [] if head is None else [head],
            "weights": self._weights(),
            "activations": _ACTIVATIONS if self.scheme == "W8A8" else None,
        }
        directory = quantized_elsewhere(
            "shapcut_plugins.quantize.compressed_tensors_worker", model, options, context
        )
        return checked_result(directory, model, context)

    def _weights(self) -> dict[str, Any]:
        weights: dict[str, Any] = {"num_bits": int(self.scheme[1]), "type": "int", "symmetric": True}
        if self._group_size is None:
            return weights | {"strategy": "channel"}
        return weights | {"strategy": "group", "group_size": self._group_size}
