"""The step that stores a model in a 16-bit number format."""

import re
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from shapcut.contracts import Adapter, InputError, PostProcessor, Stage, StepContext

_BITS = 16


class Cast(PostProcessor):
    """Convert the stored floating-point weights, which halves an fp32 checkpoint.

    Tensors outside the checkpoint, such as rotary frequencies, keep their precision: plain transformers
    recomputes them when it loads the model.
    """

    stage: ClassVar[Stage] = "export"

    def __init__(self, dtype: Literal["bfloat16", "float16"] = "bfloat16") -> None:
        self.dtype: torch.dtype = getattr(torch, dtype)

    def check(self, model: nn.Module, adapter: Adapter) -> None:  # noqa: ARG002 - the model says it all
        """Refuse quantized weights, and weights that overflow the dtype.

        Raises:
            InputError: naming the first such weight.
        """
        largest = torch.finfo(self.dtype).max
        for name, weight in model.named_parameters():
            if not weight.is_floating_point() or torch.finfo(weight.dtype).bits < _BITS:
                kind = _name(weight.dtype)
                raise InputError(
                    f"cast: {name} is {kind}, the model is already quantized; leave out this step"
                )
            if weight.numel() and (size := float(weight.detach().abs().max())) > largest:
                raise InputError(
                    f"cast: {name} has a weight of size {size:.4g}, {_name(self.dtype)} ends at "
                    f"{largest:.4g}; leave out this step or choose bfloat16"
                )

    def run(self, model: nn.Module, context: StepContext) -> nn.Module:
        """Convert in place, weight by weight; a model that already has the dtype is unchanged.

        Raises:
            InputError: if an earlier step produced weights that `check` refuses.
        """
        self.check(model, context.adapter)
        stays = _kept_in_float32(model, self.dtype)
        for name, tensor in model.state_dict(keep_vars=True).items():
            if isinstance(tensor, Tensor) and tensor.is_floating_point() and not stays.search(name):
                tensor.data = tensor.data.to(self.dtype)
        _note_in_config(model, self.dtype)
        return model


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _kept_in_float32(model: nn.Module, dtype: torch.dtype) -> re.Pattern[str]:
    """Matches names of weights that transformers converts back to fp32 on loading."""
    attributes = ["_keep_in_fp32_modules_strict"]
    if dtype == torch.float16:
        attributes.append("_keep_in_fp32_modules")
    patterns = [pattern for attribute in attributes for pattern in getattr(model, attribute, None) or ()]
    return re.compile("|".join(pattern.replace("*", ".*") for pattern in patterns) or r"(?!)")


def _note_in_config(model: nn.Module, dtype: torch.dtype) -> None:
    """Write the dtype into the config of a transformers model and of its text model."""
    config: Any = getattr(model, "config", None)
    if hasattr(config, "get_text_config"):
        config.dtype = dtype
        config.get_text_config().dtype = dtype
