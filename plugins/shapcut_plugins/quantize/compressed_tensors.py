"""The step that quantizes with llm-compressor, into the format compressed-tensors."""

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

from torch import nn

from shapcut.contracts import StepContext, StoredModel
from shapcut_plugins.quantize.base import (
    GROUP_SIZES,
    VLLM,
    Quantizer,
    checked_choice,
    checked_samples,
    output_embedding_name,
)
from shapcut_plugins.quantize.process import checked_result, quantized_elsewhere

Scheme = Literal["W2A16", "W3A16", "W4A16", "W8A16", "W8A8", "FP8"]
Algorithm = Literal["gptq", "rtn"]

_DEFAULT_GROUP = 64
_EIGHT_BITS = {"W8A8": "int", "FP8": "float"}
"""Schemes with 8 bits for weights and activations, and their type of number."""


class CompressedTensors(Quantizer):
    """Quantize with llm-compressor, in a separate process.

    Plain transformers loads the checkpoint with compressed-tensors, which unpacks it: smaller on disk, not in
    memory. Other engines compute with the packed weights.

    Args:
        scheme: bits of weights and activations; FP8 has 8-bit floats (E4M3) for both. 8-bit activations are
            quantized dynamically.
        group_size: weights that share a scale; default 64; W8A8 and FP8 have no groups but a scale per row.
        algorithm: ``gptq`` (uses the calibration text) or ``rtn`` (round to nearest); default gptq, for FP8
            rtn.
        samples: calibration windows; default: as many as coalitions are measured on.
    """

    name: ClassVar[str] = "compressed-tensors"
    packages: ClassVar[tuple[str, ...]] = ("llmcompressor", "compressed_tensors", "datasets")
    install: ClassVar[str] = (
        "pip install 'shapcut[compressed-tensors]' -c constraints.txt && "
        "pip install --no-deps llmcompressor -c constraints.txt"
    )

    def __init__(
        self,
        scheme: Scheme = "W4A16",
        group_size: int | None = None,
        algorithm: Algorithm | None = None,
        samples: int | None = None,
    ) -> None:
        whole_rows = scheme in _EIGHT_BITS
        if whole_rows and group_size is not None:
            raise ValueError(
                f"group_size={group_size} is unavailable with scheme={scheme}, which has a scale per row"
            )
        self.scheme: Scheme = scheme
        self.algorithm: Algorithm = algorithm or ("rtn" if scheme == "FP8" else "gptq")
        self.samples = checked_samples(samples)
        self._group_size = (
            None if whole_rows else checked_choice("group_size", group_size or _DEFAULT_GROUP, GROUP_SIZES)
        )

    @property
    def caveats(self) -> Sequence[str]:
        """Schemes that few engines compute with."""
        if self.scheme in {"W2A16", "W3A16"}:
            return [f"{VLLM} loads {self.scheme} only on an NVIDIA GPU with the package humming"]
        return []

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
            "activations": self._activations(),
        }
        directory = quantized_elsewhere(
            "shapcut_plugins.quantize.compressed_tensors_worker", model, options, context
        )
        return checked_result(directory, model, context)

    def _weights(self) -> dict[str, Any]:
        if self.scheme in _EIGHT_BITS:
            return self._eight_bits() | {"strategy": "channel"}
        group = {"strategy": "group", "group_size": self._group_size}
        return {"num_bits": int(self.scheme[1]), "type": "int", "symmetric": True, **group}

    def _activations(self) -> dict[str, Any] | None:
        if self.scheme not in _EIGHT_BITS:
            return None
        return self._eight_bits() | {"strategy": "token", "dynamic": True}

    def _eight_bits(self) -> dict[str, Any]:
        return {"num_bits": 8, "type": _EIGHT_BITS[self.scheme], "symmetric": True}
