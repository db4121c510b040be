"""The step that quantizes with torchao: integers by rounding, without calibration."""

from typing import Any, ClassVar, Literal

import torch
from torch import nn

from shapcut.contracts import StepContext
from shapcut_plugins.quantize.base import GROUP_SIZES, Quantizer, checked_choice, loaded_quantized

_DEFAULT_GROUP = 32


class TorchAO(Quantizer):
    """Quantize with torchao; the checkpoint is loaded by plain transformers with that package.

    Args:
        kind: ``int8`` (weights only, a scale a row), ``int8-dynamic`` (activations too, as they come), or
            ``int4`` (weights only, in groups; kept as 8-bit integers in memory).
        group_size: weights that share a scale, for ``int4`` only; by default 32.
    """

    name: ClassVar[str] = "torchao"
    packages: ClassVar[tuple[str, ...]] = ("torchao", "accelerate")
    install: ClassVar[str] = "pip install 'shapcut[torchao]' -c constraints.txt"

    def __init__(
        self, kind: Literal["int8", "int8-dynamic", "int4"] = "int8", group_size: int | None = None
    ) -> None:
        if group_size is not None and kind != "int4":
            raise ValueError(f"group_size={group_size} is for kind=int4; {kind} has a scale a row")
        self.kind = kind
        self._group_size: int | None = None
        if kind == "int4":
            self._group_size = checked_choice("group_size", group_size or _DEFAULT_GROUP, GROUP_SIZES)

    @property
    def group_size(self) -> int | None:
        """As given."""
        return self._group_size

    def run(self, model: nn.Module, context: StepContext) -> nn.Module:
        """Load the pruned model with quantized weights."""
        from transformers import TorchAoConfig  # noqa: PLC0415 - seconds to import

        return loaded_quantized(model, TorchAoConfig(self._config()), context)

    def _config(self) -> Any:
        from torchao import quantization  # noqa: PLC0415 - seconds to import

        library: Any = quantization
        int4: Any = getattr(torch, "int4")  # noqa: B009 - torch's type stubs lack it
        if self.kind == "int4":
            return library.IntxWeightOnlyConfig(int4, library.PerGroup(self._group_size))
        if self.kind == "int8":
            return library.Int8WeightOnlyConfig()
        return library.Int8DynamicActivationInt8WeightConfig()
