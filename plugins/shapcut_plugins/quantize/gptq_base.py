"""The options shared by the steps that write GPTQ's format."""

from collections.abc import Sequence
from typing import Any

from shapcut_plugins.quantize.base import (
    GROUP_SIZES,
    VLLM,
    WHOLE_ROWS,
    Quantizer,
    checked_choice,
    checked_samples,
)
from shapcut_plugins.quantize.gptq_format import BITS

_BITS_IN_VLLM = (4, 8)


class GptqQuantizer(Quantizer):
    """Quantizes into GPTQ's format.

    Args:
        bits: per weight.
        group_size: weights that share a scale; -1: a whole row.
        desc_act: quantize columns in descending order of their activations.
        sym: centre a group's integers on zero instead of its range of weights.
        samples: calibration windows; default: as many as coalitions are measured on.
    """

    def __init__(
        self,
        bits: int = 4,
        group_size: int = 64,
        *,
        desc_act: bool = False,
        sym: bool = True,
        samples: int | None = None,
    ) -> None:
        self.bits = checked_choice("bits", bits, BITS)
        self.desc_act = desc_act
        self.sym = sym
        self.samples = checked_samples(samples)
        self._group_size = checked_choice("group_size", group_size, (WHOLE_ROWS, *GROUP_SIZES))

    @property
    def group_size(self) -> int | None:
        """Weights that share a scale; None for whole rows."""
        return None if self._group_size == WHOLE_ROWS else self._group_size

    @property
    def caveats(self) -> Sequence[str]:
        """Options that vLLM refuses."""
        refused = {
            f"bits={self.bits}; use 4 or 8": self.bits not in _BITS_IN_VLLM,
            "sym=false": not self.sym,
            "desc_act=true with groups; use group_size=-1": self.desc_act and self.group_size is not None,
        }
        return [f"{VLLM} does not load GPTQ with {what}" for what, applies in refused.items() if applies]

    @property
    def format_options(self) -> dict[str, Any]:
        """The format's options under the names that GPTQ libraries and checkpoints use."""
        return {
            "bits": self.bits,
            "group_size": self._group_size,
            "desc_act": self.desc_act,
            "sym": self.sym,
        }
