"""Check that no field of a shortened config describes the old depth."""

import json
import re
import tempfile
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from torch import nn

from shapcut.models.fingerprint import config_of
from shapcut.testing.capabilities import needs_removal
from shapcut.testing.case import Case
from shapcut.testing.comparison import require

_LAYERS = re.compile(r"layer|depth|block|pattern")
_INDICES = re.compile(r"layers?$|(layer|attn|attention)_(ids|idxs?|indices)$|layer_(ids|idxs?|indices)")
_PREFIX_COUNTS = ("first_k_dense_replace", "num_dense_layers", "max_window_layers")


@dataclass(frozen=True, slots=True)
class _Shortening:
    """Which of ``depth`` layers are kept."""

    depth: int
    kept: tuple[int, ...]

    def problem(self, name: str, before: Any, after: Any) -> str:
        """What is wrong with a field; empty if it does not describe the old depth."""
        if isinstance(after, bool) or isinstance(before, bool):
            return ""
        if name in _PREFIX_COUNTS and isinstance(before, int):
            expected = sum(index < before for index in self.kept)
            return "" if after == expected else f"counts {after} first layers, {expected} are left"
        if isinstance(after, int):
            same = after == self.depth and _LAYERS.search(name)
            return f"is still {self.depth}" if same else ""
        if isinstance(after, list) or (isinstance(after, str) and "pattern" in name):
            return self._list_problem(name, before, after)
        return ""

    def _list_problem(self, name: str, before: Any, after: Any) -> str:
        if len(after) == self.depth:
            return f"still has {self.depth} entries"
        if not (_INDICES.search(name) and _are_indices(before, self.depth)):
            return ""
        expected = [self._renumbered(before, first) for first in (0, 1)]
        return "" if after in expected else f"lists {after}, expected {expected[0]} or, from 1, {expected[1]}"

    def _renumbered(self, indices: list[int], first: int) -> list[int]:
        return [new + first for new, old in enumerate(self.kept) if old + first in indices]


@needs_removal
def config_follows_depth(case: Case) -> str:
    """No field of the shortened config, nested ones included, describes the old depth."""
    if case.granularity != "block":
        return "players are parts of layers"
    before = dict(_fields(_written(case, case.model) or {}))
    if not before:
        return "there is no config"
    exceptions = case.adapter.independent_fields(case.model)
    for absent in case.telling_sets:
        kept = tuple(sorted(case.present(absent)))
        fields = dict(_fields(_written(case, case.removed(absent)) or {}))
        _require_shortened(_Shortening(len(case.players), kept), before, fields, exceptions)
    return f"{len(before)} fields"


def _require_shortened(
    cut: _Shortening, before: Mapping[str, Any], after: Mapping[str, Any], exceptions: Collection[str]
) -> None:
    for path, value in after.items():
        if not any(fnmatch(path, exception) for exception in exceptions):
            problem = cut.problem(path.rpartition(".")[2], before.get(path), value)
            require(not problem, f"layers {list(cut.kept)} of {cut.depth} are kept: {path} {problem}")


def _written(case: Case, model: nn.Module) -> dict[str, Any] | None:
    """The config.json that the adapter writes, or the config in memory if it writes none."""
    with tempfile.TemporaryDirectory() as name:
        case.adapter.save(model, Path(name))
        file = Path(name) / "config.json"
        return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else config_of(model)


def _fields(config: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """Every field by its dotted path."""
    for name, value in config.items():
        if isinstance(value, Mapping):
            yield from _fields(value, f"{path}{name}.")
        else:
            yield f"{path}{name}", list(value) if isinstance(value, tuple) else value


def _are_indices(value: Any, depth: int) -> bool:
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(item, int) and 0 <= item <= depth for item in value)
        and len(set(value)) == len(value)
    )
