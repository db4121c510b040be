"""The base class of quantization steps, and their early checks."""

import importlib.util
from abc import abstractmethod
from collections.abc import Iterator
from math import gcd
from typing import Any, ClassVar

import torch
from torch import nn

from shapcut.contracts import Adapter, InputError, PostProcessor, Stage, StepContext

GROUP_SIZES = (16, 32, 64, 128)
WHOLE_ROWS = -1
"""The group size that means one scale per row."""
VLLM = "vLLM 0.32"
"""The version whose code the caveats are about."""


class Quantizer(PostProcessor):
    """Quantizes the linear layers of a transformers model, except its output embedding.

    Attributes:
        name: under which the step is registered.
        packages: modules that must be installed.
        install: how to install them.
    """

    stage: ClassVar[Stage] = "quantize"
    gives_quantized: ClassVar[bool] = True
    name: ClassVar[str]
    packages: ClassVar[tuple[str, ...]]
    install: ClassVar[str]

    @property
    @abstractmethod
    def group_size(self) -> int | None:
        """Weights of a row that share a scale; None if that is not an option."""

    def check(self, model: nn.Module, adapter: Adapter) -> None:  # noqa: ARG002 - the model says it all
        """Refuse models outside transformers, and widths that the group size does not divide.

        Raises:
            InputError: naming the first obstacle.
        """
        require_packages(self.name, self.packages, self.install)
        if not type(model).__module__.startswith("transformers."):
            raise InputError(
                f"{self.name}: a {type(model).__name__} is not a model of transformers; leave out this step"
            )
        widths = {name: layer.in_features for name, layer in linear_layers(model)}
        if not widths:
            raise InputError(f"{self.name}: {type(model).__name__} has no linear layers to quantize")
        if self.group_size is not None:
            _require_divisible(self.name, self.group_size, widths)


def checked_samples(samples: int | None) -> int | None:
    """Validate the option ``samples``.

    Raises:
        ValueError: if it is not positive.
    """
    if samples is not None and samples < 1:
        raise ValueError(f"samples={samples} is not positive")
    return samples


def checked_choice(option: str, value: int, allowed: tuple[int, ...]) -> int:
    """Validate an option with a fixed set of values.

    Raises:
        ValueError: naming the allowed values.
    """
    if value not in allowed:
        raise ValueError(f"{option}={value} is not supported; use one of {', '.join(map(str, allowed))}")
    return value


def require_packages(step: str, packages: tuple[str, ...], install: str) -> None:
    """Refuse a step whose packages are not installed.

    Raises:
        InputError: with the install command.
    """
    missing = [package for package in packages if importlib.util.find_spec(package) is None]
    if missing:
        raise InputError(f"{step} needs the package {missing[0]}, which is not installed: {install}")


def linear_layers(model: nn.Module) -> Iterator[tuple[str, nn.Linear]]:
    """Names and modules of the linear layers, except the output embedding."""
    head = model.get_output_embeddings()  # type: ignore[operator]
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and module is not head:
            yield name, module


def output_embedding_name(model: nn.Module) -> str | None:
    """The dotted name of the output embedding, or None."""
    head = model.get_output_embeddings()  # type: ignore[operator]
    return next((name for name, module in model.named_modules() if module is head), None)


def _require_divisible(step: str, group_size: int, widths: dict[str, int]) -> None:
    for name, width in widths.items():
        if width % group_size:
            common = gcd(*widths.values())
            fitting = [size for size in GROUP_SIZES if common % size == 0]
            advice = f"use one of {', '.join(map(str, fitting))}" if fitting else "use another step"
            raise InputError(
                f"{step}: group_size={group_size} does not divide the {width} inputs of {name}; {advice}"
            )


def loaded_quantized(model: nn.Module, config: Any, context: StepContext) -> nn.Module:
    """Save the model and reload it in transformers with a quantization config, on the same device."""
    from transformers import AutoModelForCausalLM  # noqa: PLC0415 - seconds to import

    device = context.adapter.input_device(model)
    source = context.directory / "unquantized"
    context.adapter.save(model, source)
    loader: Any = AutoModelForCausalLM
    quantized: nn.Module = loader.from_pretrained(
        source, quantization_config=config, device_map={"": device}, dtype="auto", local_files_only=True
    )
    return quantized.eval().requires_grad_(requires_grad=False)


def compute_dtype(model: nn.Module) -> torch.dtype:
    """The dtype of the weights that are not quantized."""
    return next(weight.dtype for weight in model.parameters() if weight.is_floating_point())
