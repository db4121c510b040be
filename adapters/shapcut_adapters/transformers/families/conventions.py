"""Config fields that follow the layers by convention, whether or not transformers reads them.

Other engines read the fields under which a model was published, so these follow a cut too.
"""

import re
from collections.abc import Mapping
from typing import Any

from transformers import PretrainedConfig

from shapcut_adapters.transformers.families.rules import Cut

_COUNTS = ("num_layers", "n_layers", "n_layer", "num_blocks")
_PREFIX_COUNTS = ("first_k_dense_replace", "num_dense_layers", "n_dense_layers", "max_window_layers")
_FROM_ONE = ("kda_layers", "full_attn_layers")
"""Lists of layer numbers that start at 1."""

_PER_LAYER = re.compile(r"layer|block|pattern|freq|(types|flags|list)$")
_INDICES = re.compile(
    r"layers$|layer_(ids|idxs?|indices)$|(attn|attention)_(ids|idxs?|indices)$|layers_enum$"
)
_NUMBERS = re.compile(r"\d+(,\d+)*")


def conventional_fields(config: PretrainedConfig, cut: Cut) -> dict[str, Any]:
    """New values of the fields that describe the layers by their name and value."""
    return _changed(vars(config), cut)


def _changed(fields: Mapping[str, Any], cut: Cut) -> dict[str, Any]:
    changes: dict[str, Any] = {}
    for name, value in fields.items():
        if str(name).startswith("_") or isinstance(value, PretrainedConfig):
            continue
        new = (
            {**value, **_changed(value, cut)} if isinstance(value, dict) else _followed(str(name), value, cut)
        )
        if new != value:
            changes[name] = new
    return changes


def _followed(name: str, value: Any, cut: Cut) -> Any:
    """A field's value after the cut; the same if it says nothing of the layers."""
    if isinstance(value, int) and not isinstance(value, bool):
        return _count(name, value, cut)
    if name in _FROM_ONE and _are_indices(value, cut.depth + 1):
        return [index + 1 for index in cut.renumbered([number - 1 for number in value])]
    if _INDICES.search(name) and isinstance(value, str) and _NUMBERS.fullmatch(value):
        return ",".join(map(str, cut.renumbered([int(number) for number in value.split(",")])))
    if isinstance(value, (str, list, tuple)) and len(value) == cut.depth and _PER_LAYER.search(name):
        kept = cut.of(value)
        return "".join(kept) if isinstance(value, str) else kept
    if _INDICES.search(name) and _are_indices(value, cut.depth):
        return cut.renumbered(value)
    return value


def _count(name: str, value: int, cut: Cut) -> int:
    if name in _PREFIX_COUNTS and value <= cut.depth:  # more than there are layers: not a number of these
        return sum(index < value for index in cut.kept)
    return len(cut.kept) if name in _COUNTS and value == cut.depth else value


def _are_indices(value: Any, end: int) -> bool:
    """Whether a value is a list of distinct layer numbers below ``end``."""
    return (
        isinstance(value, (list, tuple))
        and all(isinstance(item, int) and 0 <= item < end for item in value)
        and len(set(value)) == len(value)
    )
