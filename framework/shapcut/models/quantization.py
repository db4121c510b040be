"""Quantized models: their method, and the packages that load them."""

import importlib.util
from typing import Any

from torch import nn

from shapcut.support.errors import InputError
from shapcut.support.suggest import did_you_mean

_UNNAMED = "by an unnamed method"

_PACKAGES = {
    "gptq": ("gptqmodel", "optimum"),
    "bitsandbytes": ("bitsandbytes",),
    "torchao": ("torchao",),
    "compressed-tensors": ("compressed_tensors",),
}
"""For each method, whose name is that of shapcut's extra, the modules that transformers needs."""


def quantization_method(config: Any) -> str | None:
    """The quantization method in a transformers config, or None for full precision."""
    content: Any = getattr(config, "quantization_config", None)
    if content is None:
        return None
    method = content.get("quant_method") if isinstance(content, dict) else content.quant_method
    return str(getattr(method, "value", method) or _UNNAMED)


def is_quantized(model: nn.Module) -> bool:
    """Whether a model's weights are quantized."""
    return quantization_method(getattr(model, "config", None)) is not None


def require_packages(source: str, method: str) -> None:
    """Refuse a quantized checkpoint with missing packages or an unknown method.

    Raises:
        InputError: with the install command, or the unknown method.
    """
    from transformers.quantizers import auto  # noqa: PLC0415 - slow to import

    known = {*auto.AUTO_QUANTIZATION_CONFIG_MAPPING, *_PACKAGES}  # the former name bitsandbytes with its bits
    if method != _UNNAMED and method not in known:
        raise InputError(
            f"{source} says that its weights are quantized by {method!r}, which this transformers does not "
            f"know: {did_you_mean(method, known)}"
        )
    for package in _PACKAGES.get(method, ()):
        if importlib.util.find_spec(package) is None:
            raise InputError(
                f"{source} is quantized ({method}) and needs the package {package}, "
                f"which is not installed: pip install 'shapcut[{method}]' -c constraints.txt"
            )
