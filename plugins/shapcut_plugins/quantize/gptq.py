"""The step that quantizes with GPTQModel, into GPTQ's own format."""

import copy
from typing import ClassVar

import torch
from torch import nn

from shapcut.contracts import StepContext, StoredModel
from shapcut_plugins.quantize.base import (
    GROUP_SIZES,
    WHOLE_ROWS,
    Quantizer,
    checked_choice,
    checked_samples,
    compute_dtype,
)
from shapcut_plugins.quantize.gptq_format import BITS, put_dense
from shapcut_plugins.quantize.process import first_logits, loaded_as_expected, quantized_elsewhere


class Gptq(Quantizer):
    """Quantize the weights of one linear layer after the other, so that its outputs on calibration text stay.

    GPTQ (Frantar et al., arXiv 2210.17323) by the package GPTQModel, in a process of its own. The checkpoint
    is loaded by plain transformers with optimum and gptqmodel; what is not quantized has 16 bits in it.

    Args:
        bits: of a weight.
        group_size: weights that share a scale; -1: a whole row.
        desc_act: whether columns are quantized in the order of their activations' size.
        sym: whether a group's integers lie around zero, or between its smallest and its largest weight.
        samples: calibration windows; by default as many as coalitions are measured on.
    """

    name: ClassVar[str] = "gptq"
    packages: ClassVar[tuple[str, ...]] = ("gptqmodel", "optimum")
    install: ClassVar[str] = "pip install 'shapcut[gptq]' -c constraints.txt"

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
        """As given; None for whole rows."""
        return None if self._group_size == WHOLE_ROWS else self._group_size

    def run(self, model: nn.Module, context: StepContext) -> StoredModel:
        """Save the pruned model, quantize it in another process, and load what that wrote."""
        options = {
            "bits": self.bits,
            "group_size": self._group_size,
            "desc_act": self.desc_act,
            "sym": self.sym,
            "dtype": kernel_dtype(model),
        }
        directory = quantized_elsewhere("shapcut_plugins.quantize.gptq_worker", model, options, context)
        dense = copy.deepcopy(model)
        put_dense(dense, directory, self.bits)
        return loaded_as_expected(directory, model, context, first_logits(dense, context))


def kernel_dtype(model: nn.Module) -> str:
    """The number format of what stays: GPTQModel's kernels work in 16 bits only."""
    return "float16" if compute_dtype(model) == torch.float16 else "bfloat16"
