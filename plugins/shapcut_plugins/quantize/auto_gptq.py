"""The step that quantizes with AutoGPTQ's quantizer, into GPTQ's format."""

import copy
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from shapcut.contracts import Adapter, InputError, StepContext, StoredModel
from shapcut_plugins.quantize.auto_gptq_package import (
    quantizer_class,
    require_package_entry,
    without_cuda_calls,
)
from shapcut_plugins.quantize.base import linear_layers
from shapcut_plugins.quantize.block_inputs import BlockRunner
from shapcut_plugins.quantize.gptq import kernel_dtype
from shapcut_plugins.quantize.gptq_base import GptqQuantizer
from shapcut_plugins.quantize.gptq_format import WORD_BITS, GroupedWeight
from shapcut_plugins.quantize.process import (
    checked_result,
    first_logits,
    loaded_as_expected,
    quantized_elsewhere,
)

_DAMPING = 0.01


class AutoGptq(GptqQuantizer):
    """Quantize block after block with the class ``GPTQ`` of AutoGPTQ 0.7.1.

    Each block sees the outputs of the quantized blocks before it. The package's own entry needs CUDA and does
    not import with current transformers, so the class is applied to the adapter's blocks here; plain
    transformers loads the checkpoint with optimum and gptqmodel.

    Args:
        bits: per weight.
        group_size: weights that share a scale; -1: a whole row.
        desc_act: quantize columns in descending order of their activations.
        sym: centre a group's integers on zero instead of its range of weights.
        samples: calibration windows; default: as many as coalitions are measured on.
        entry: ``layers``, or ``package`` for the package's own entry (CUDA only).
    """

    name: ClassVar[str] = "auto-gptq"
    packages: ClassVar[tuple[str, ...]] = ("auto_gptq", "gptqmodel", "optimum")
    install: ClassVar[str] = (
        "pip install 'shapcut[auto-gptq]' -c constraints.txt && "
        "pip install --no-deps auto-gptq -c constraints.txt"
    )

    def __init__(
        self,
        bits: int = 4,
        group_size: int = 64,
        *,
        desc_act: bool = False,
        sym: bool = True,
        samples: int | None = None,
        entry: Literal["layers", "package"] = "layers",
    ) -> None:
        super().__init__(bits, group_size, desc_act=desc_act, sym=sym, samples=samples)
        self.entry = entry

    def check(self, model: nn.Module, adapter: Adapter) -> None:
        """As `Quantizer.check`; also refuse shapes that do not fill the format's words.

        Raises:
            InputError: naming the first obstacle.
        """
        super().check(model, adapter)
        if self.entry == "package":
            require_package_entry()
        in_word = WORD_BITS // self.bits
        for name, layer in linear_layers(model):
            if layer.in_features % in_word or layer.out_features % in_word:
                raise InputError(
                    f"auto-gptq: {name} has {layer.in_features} inputs and {layer.out_features} outputs, "
                    f"{self.bits} bits need multiples of {in_word}; use the step compressed-tensors"
                )

    def run(self, model: nn.Module, context: StepContext) -> StoredModel:
        """Quantize, write the packed checkpoint, and load it."""
        if self.entry == "package":
            directory = quantized_elsewhere(
                "shapcut_plugins.quantize.auto_gptq_worker", model, self.format_options, context
            )
            return checked_result(directory, model, context)
        model = copy.deepcopy(model)
        packed = self._quantize_blocks(model, context)
        expected = first_logits(model, context)
        directory = context.directory / "quantized"
        self._write(model, packed, directory)
        return loaded_as_expected(directory, model, context, expected)

    def _quantize_blocks(self, model: nn.Module, context: StepContext) -> dict[str, GroupedWeight]:
        """Quantize the blocks' linear layers in place; returns their grouped weights by name."""
        runner = BlockRunner(context.adapter, model, context.calibration)
        names = {layer: name for name, layer in linear_layers(model)}
        quantized: dict[str, GroupedWeight] = {}
        for player in context.adapter.players(model):
            block = model.get_submodule(player.name)
            layers = {module: names[module] for module in block.modules() if module in names}
            workers = {layer: self._worker(layer) for layer in layers}
            runner.observe(player.index, {layer: _adding(worker) for layer, worker in workers.items()})
            for layer, worker in workers.items():
                quantized[layers[layer]] = self._quantize_layer(layer, worker)
            runner.advance(player.index)
        return quantized

    def _worker(self, layer: nn.Module) -> Any:
        worker = quantizer_class()(layer)
        worker.quantizer.configure(self.bits, perchannel=True, sym=self.sym, mse=False)
        return worker

    def _quantize_layer(self, layer: nn.Module, worker: Any) -> GroupedWeight:
        """Quantize a layer in place with the package's algorithm, rounding scales to 16 bits."""
        with without_cuda_calls():
            scales, zeros, group_of = worker.fasterquant(
                percdamp=_DAMPING,
                group_size=self._group_size,
                actorder=self.desc_act,
                static_groups=self.desc_act and self.group_size is not None,
            )
            worker.free()
        weight: Tensor = layer.weight.data  # type: ignore[assignment]
        found = GroupedWeight.nearest(weight, scales, zeros, group_of, self.bits)
        layer.weight.data = found.dense().to(weight.dtype)
        return found

    def _write(self, model: Any, quantized: dict[str, GroupedWeight], directory: Path) -> None:
        """Save the model with packed weights in place of the quantized layers' weights."""
        model.to(getattr(torch, kernel_dtype(model)))
        state = dict(model.state_dict())
        for name, weight in quantized.items():
            del state[f"{name}.weight"]
            state |= {f"{name}.{part}": tensor.cpu() for part, tensor in weight.packed(self.bits).items()}
        model.config.quantization_config = {
            "quant_method": "gptq",
            **self.format_options,
            "checkpoint_format": "gptq",
        }
        model.save_pretrained(directory, state_dict=state)


def _adding(worker: Any) -> Any:
    return lambda inputs: worker.add_batch(inputs, None)
