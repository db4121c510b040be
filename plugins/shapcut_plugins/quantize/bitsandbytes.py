"""The step that quantizes with bitsandbytes: 8-bit integers, or 4 bits without calibration."""

import logging
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

from torch import nn

from shapcut.contracts import StepContext
from shapcut_plugins.quantize.base import VLLM, Quantizer, compute_dtype, loaded_quantized


class BitsAndBytes(Quantizer):
    """Quantize with bitsandbytes; plain transformers loads the checkpoint with that package.

    Args:
        kind: ``nf4`` and ``fp4`` (4 bits, blocks of 64 weights) or ``int8`` (8 bits, a scale per row).
        double_quant: also quantize the scales of 4-bit blocks.
    """

    name: ClassVar[str] = "bitsandbytes"
    packages: ClassVar[tuple[str, ...]] = ("bitsandbytes", "accelerate")
    install: ClassVar[str] = "pip install 'shapcut[bitsandbytes]' -c constraints.txt"

    def __init__(self, kind: Literal["nf4", "fp4", "int8"] = "nf4", *, double_quant: bool = False) -> None:
        if double_quant and kind == "int8":
            raise ValueError("double_quant=True is for 4 bits; leave it out with kind=int8")
        self.kind = kind
        self.double_quant = double_quant

    @property
    def caveats(self) -> Sequence[str]:
        """The method is gone from vLLM."""
        return [f"{VLLM} does not load bitsandbytes checkpoints"]

    @property
    def group_size(self) -> int | None:
        """Blocks run across rows, so any width will do."""
        return None

    def run(self, model: nn.Module, context: StepContext) -> nn.Module:
        """Load the pruned model with quantized weights."""
        from transformers import BitsAndBytesConfig  # noqa: PLC0415 - seconds to import

        config: Any = BitsAndBytesConfig

        logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # else a line for each product
        options: dict[str, Any] = {"load_in_8bit": True}
        if self.kind != "int8":
            options = {
                "load_in_4bit": True,
                "bnb_4bit_quant_type": self.kind,
                "bnb_4bit_use_double_quant": self.double_quant,
                "bnb_4bit_compute_dtype": compute_dtype(model),
            }
        return loaded_quantized(model, config(**options), context)
