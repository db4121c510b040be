"""Multi-token prediction: layers behind the last one that no causal language model of transformers runs."""

import re
from typing import Any

_COUNTS = ("num_nextn_predict_layers", "num_mtp_layers", "mtp_num_layers", "mtp_num_hidden_layers")
_NAMED = re.compile(r"(^|\.)mtp[._]")
_LAYER = re.compile(r"(?:^|\.)layers\.(\d+)\.")


def predictor_count(config: Any) -> int:
    """The number of layers that predict further tokens, by a model's config."""
    text = text_config(config)
    counts = (getattr(text, name, None) for name in _COUNTS)
    return next((count for count in counts if isinstance(count, int) and count > 0), 0)


def is_predictor(name: str, config: Any) -> bool:
    """Whether a tensor belongs to a layer that predicts further tokens.

    Such layers are called ``mtp``, or are numbered after the last layer that the config counts.
    """
    if _NAMED.search(name):
        return True
    depth, found = getattr(text_config(config), "num_hidden_layers", None), _LAYER.search(name)
    if found is None or not isinstance(depth, int):
        return False
    return depth <= int(found[1]) < depth + predictor_count(config)


def forget_predictors(content: dict[str, Any]) -> bool:
    """Set the counts of such layers in a config.json to 0; whether one was not."""
    found = False
    parts = [part for part in (content, content.get("text_config")) if isinstance(part, dict)]
    for part in parts:
        for name in _COUNTS:
            if part.get(name):
                part[name], found = 0, True
    return found


def text_config(config: Any) -> Any:
    """The config of the language model in a config."""
    get: Any = getattr(config, "get_text_config", None)
    return config if get is None else get()
