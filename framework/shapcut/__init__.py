"""shapcut: layer pruning of language models as a cooperative game.

The names here are the Python API; everything heavy is imported when it is first used.
"""

from importlib import import_module, metadata
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from shapcut.api import apply, estimate, prune, select
    from shapcut.valuation.model_game import ModelGame

__version__ = metadata.version("shapcut")

__all__ = ["ModelGame", "__version__", "apply", "estimate", "prune", "select"]

_HOMES = {"ModelGame": "modelgame", "apply": "api", "estimate": "api", "prune": "api", "select": "api"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'shapcut' has no attribute {name!r}")
    return getattr(import_module(f"shapcut.{_HOMES[name]}"), name)
