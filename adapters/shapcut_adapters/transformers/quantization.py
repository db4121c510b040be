"""Removal from quantized models: the quantization config follows."""

import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from shapcut.contracts import quantization_method
from shapcut_adapters.transformers.decoder import Decoder
from shapcut_adapters.transformers.families.rules import Cut
from shapcut_adapters.transformers.renumbering import Renumbering

_REGULAR_EXPRESSION = re.compile(r"^(re:|[+-]:)|[\\*^$|()\[\]]")


def quantization_objection(decoder: Decoder, cut: Cut) -> str:
    """Why blocks cannot be removed from a quantized model; empty if they can."""
    if not (method := quantization_method(decoder.model.config)):
        return ""
    if decoder.rebuild is not None:
        return f"{type(decoder.model).__name__} must be rebuilt for a removal, impossible when quantized"
    renumbering = Renumbering((decoder.stack,), cut)
    changed = {name for name in _block_names(decoder) if renumbering.name(name) != name}
    for text in _texts(_plain(getattr(decoder.model.config, "quantization_config", {}))):
        if _REGULAR_EXPRESSION.search(text) and re.search(r"\d", text) and _selects(text, changed):
            return (
                f"the {method} config selects layers by the pattern {text!r}, which cannot follow renumbering"
            )
    return ""


def renumber_quantization(decoder: Decoder, cut: Cut) -> None:
    """Renumber the module names in the quantization config after the kept blocks."""
    whole: Any = decoder.model.config
    config = whole.quantization_config
    renumbering = Renumbering((decoder.stack,), cut)
    if isinstance(config, dict):
        whole.quantization_config = renumbering.data(config)
        return
    for name, value in list(vars(config).items()):
        if isinstance(value, (dict, list, tuple)):
            setattr(config, name, renumbering.data(value))


def _plain(config: Any) -> Any:
    return config if isinstance(config, dict) else config.to_dict()


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _texts(key)
            yield from _texts(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _texts(item)


def _selects(text: str, names: Collection[str]) -> bool:
    """Whether a regular expression matches any name."""
    try:
        pattern = re.compile(re.sub(r"^(re:|[+-]:)", "", text))
    except re.error:
        return False
    return any(pattern.match(name) for name in names)


def _block_names(decoder: Decoder) -> list[str]:
    prefix = f"{decoder.stack}."
    return [name for name, _ in decoder.model.named_modules() if name.startswith(prefix)]
