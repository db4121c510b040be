"""Names of modules and tensors after a cut, alone and in configs."""

import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from shapcut_adapters.transformers.families.rules import Cut


@dataclass(frozen=True, slots=True)
class Renumbering:
    """How names follow a cut.

    Attributes:
        stacks: the dotted paths under which the layers are numbered.
        cut: which of them are kept.
    """

    stacks: Collection[str]
    cut: Cut

    def name(self, name: str) -> str | None:
        """A module's or tensor's name after the cut, or None if it is removed.

        Layers numbered after the last one, which predict further tokens, stay after the last one.
        """
        for stack in self.stacks:
            found = re.match(rf"{re.escape(stack)}\.(\d+)(?=\.|$)", name)
            if found is not None:
                index = self._index(int(found[1]))
                return None if index is None else f"{stack}.{index}{name[found.end() :]}"
        return name

    def _index(self, old: int) -> int | None:
        kept, depth = self.cut.kept, self.cut.depth
        if old >= depth:
            return len(kept) + old - depth
        return kept.index(old) if old in kept else None

    def data(self, value: Any) -> Any:
        """Data with the names in it renumbered and removed entries dropped."""
        if isinstance(value, str):
            return self.name(value)
        if isinstance(value, Mapping):
            pairs = ((self.data(key), self.data(item)) for key, item in value.items())
            return {key: item for key, item in pairs if key is not None}
        if isinstance(value, (list, tuple)):
            followed = [(item, self.data(item)) for item in value]
            return type(value)(new for old, new in followed if new is not None or old is None)
        return value

    def metadata(self, metadata: Mapping[str, str]) -> dict[str, str]:
        """A weight file's metadata; torchao describes tensors there, by name and in a list of names."""
        followed: dict[str, str] = self.data(metadata)
        for key, text in followed.items():
            if text.startswith("["):
                followed[key] = json.dumps(self.data(json.loads(text)))
        return followed
