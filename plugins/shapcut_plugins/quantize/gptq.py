"""The step that quantizes with GPTQModel, into GPTQ's own format."""

import copy
from typing import ClassVar

import torch
from torch import nn

from shapcut.contracts import StepContext, StoredModel
from shapcut_plugins.quantize.base import compute_dtype
from shapcut_plugins.quantize.gptq_base import GptqQuantizer
from shapcut_plugins.quantize.gptq_format import put_dense
from shapcut_plugins.quantize.process import first_logits, loaded_as_expected, quantized_elsewhere


class Gptq(GptqQuantizer):
    """Quantize one linear layer after another so that its outputs on calibration text stay close.

    GPTQ (Frantar et al., arXiv 2210.17323) by the package GPTQModel, in a separate process. Plain
    transformers loads the checkpoint with optimum and gptqmodel; its other weights have 16 bits.

    See `GptqQuantizer` for the options.
    """

    name: ClassVar[str] = "gptq"
    packages: ClassVar[tuple[str, ...]] = ("gptqmodel", "optimum")
    install: ClassVar[str] = "pip install 'shapcut[gptq]' -c constraints.txt"

    def run(self, model: nn.Module, context: StepContext) -> StoredModel:
        """Save the pruned model, quantize it in another process, load the result."""
        options = self.format_options | {"dtype": kernel_dtype(model)}
        directory = quantized_elsewhere("shapcut_plugins.quantize.gptq_worker", model, options, context)
        dense = copy.deepcopy(model)
        put_dense(dense, directory, self.bits)
        return loaded_as_expected(directory, model, context, first_logits(dense, context))


def kernel_dtype(model: nn.Module) -> str:
    """The dtype of unquantized weights: GPTQModel's kernels work in 16 bits only."""
    return "float16" if compute_dtype(model) == torch.float16 else "bfloat16"
