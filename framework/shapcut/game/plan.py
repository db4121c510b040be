"""The removal plan: plain data that people can read and a later command can apply."""

from collections.abc import Sequence
from itertools import groupby
from operator import index
from pathlib import Path
from typing import Annotated, Literal, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from shapcut.game.checkpoint_form import CheckpointForm
from shapcut.game.granularity import Granularity, plural
from shapcut.support.errors import InputError
from shapcut.support.files import write_text_atomically
from shapcut.support.html_table import html_table
from shapcut.support.plain_json import read_json

_LARGEST = 2**24

_PART_NAMES = {"mlp": "MLP"}

Index = Annotated[int, Field(ge=0, strict=True)]
Value = Annotated[float, Field(strict=True)]


class LayerRemoval(NamedTuple):
    """What one layer loses.

    Attributes:
        name: of the layer.
        size: number of its players.
        removed: the removed ones, counted from 0 in the layer.
    """

    name: str
    size: int
    removed: tuple[int, ...]


class RemovalPlan(BaseModel):
    """The players to remove and to keep; indices count the original model's players from 0.

    Attributes:
        model_fingerprint: fingerprint of the model to prune; empty if the plan is not tied to a model.
        granularity: what a player is.
        form: the form of the checkpoint without them.
        removed: players to remove, ascending.
        kept: players to keep, ascending.
        predicted_value: the surrogate's value of the kept players, in the utility's unit, or None.
        measured_value: the measured value of the kept players, or None.
        full_value: the value of the whole model, or None.
        final_value: the value on the larger sample on which finalists were compared, or None.
        utility: name of the values' utility.
        method: estimator and selector that chose the set.
        reason: one sentence on why this set was chosen.
        layers: number of players of each layer that has several, in order, by the name they share.
        parts: for parts of blocks, the blocks that lose each kind of part.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format_version: Literal[1] = 1
    model_fingerprint: str = ""
    granularity: Granularity = "block"
    form: CheckpointForm = "same"
    removed: tuple[Index, ...]
    kept: tuple[Index, ...]
    predicted_value: Value | None = None
    measured_value: Value | None = None
    full_value: Value | None = None
    final_value: Value | None = None
    utility: str = ""
    method: str = ""
    reason: str = ""
    layers: dict[str, Index] = Field(default_factory=dict)
    parts: dict[str, tuple[Index, ...]] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _indices_partition_the_players(self) -> Self:
        everyone = sorted((*self.removed, *self.kept))
        if everyone != list(range(len(everyone))):
            raise ValueError("removed and kept must together name every player exactly once")
        if list(self.removed) != sorted(self.removed) or list(self.kept) != sorted(self.kept):
            raise ValueError("removed and kept must be ascending")
        if self.layers and sum(self.layers.values()) != len(everyone):
            raise ValueError(f"layers count {sum(self.layers.values())} players, not {len(everyone)}")
        return self

    @property
    def what(self) -> str:
        """Its players in words."""
        return plural(self.granularity)

    def by_layer(self) -> list[LayerRemoval]:
        """What each layer loses; empty if layers have no players of their own."""
        found, first, gone = [], 0, iter(self.removed)
        player = next(gone, None)
        for name, size in self.layers.items():
            inside = []
            while player is not None and player < first + size:
                inside.append(player - first)
                player = next(gone, None)
            number = next((part for part in name.split(".") if part.isdecimal()), name)
            found.append(LayerRemoval(f"layer {number}", size, tuple(inside)))
            first += size
        return found

    def listed(self) -> list[str]:
        """The removed players in words: a line for each layer with several players, else a single line."""
        if self.parts:
            named = (
                f"{_PART_NAMES.get(kind, kind)} of {runs(blocks)}" for kind, blocks in self.parts.items()
            )
            return ["; ".join(named)]
        if not self.layers:
            return [", ".join(map(str, self.removed)) or "none"]
        if self.granularity == "mixed":
            return [
                f"{name}: {_of_layer(list(several))}"
                for name, several in groupby(self.by_layer(), lambda each: each.name)
            ]
        return [
            f"{name}: {len(removed)} of {size} {self.granularity}s: {runs(removed) or 'none'}"
            for name, size, removed in self.by_layer()
        ]

    @classmethod
    def removing(cls, removed: Sequence[int], n_players: int, **fields: object) -> "RemovalPlan":
        """Create a plan that removes these of ``n_players`` players; other attributes by keyword.

        Raises:
            InputError: if a player does not exist or is named twice.
        """
        if wrong := [one for one in removed if isinstance(one, bool) or not hasattr(one, "__index__")]:
            raise InputError(f"cannot remove player {wrong[0]!r}: a player is a whole number")
        absent = sorted(map(index, removed))
        if unknown := [player for player in absent if not 0 <= player < n_players]:
            raise InputError(f"cannot remove player {unknown[-1]}: the players are 0 to {n_players - 1}")
        if len(set(absent)) < len(absent):
            raise InputError(f"cannot remove players {absent}: one is named twice")
        gone = set(absent)
        kept = [player for player in range(n_players) if player not in gone]
        return cls.model_validate({"removed": tuple(absent), "kept": tuple(kept), **fields})

    def _repr_html_(self) -> str:
        rows = [
            ("removed", ", ".join(map(str, self.removed)) or "none"),
            ("kept", len(self.kept)),
            ("value", "unknown" if self.measured_value is None else f"{self.measured_value:.4g}"),
            ("method", self.method or "not stated"),
            ("why", self.reason or "not stated"),
        ]
        players = len(self.removed) + len(self.kept)
        return html_table(f"removal of {len(self.removed)} of {players} {self.what}", ("", ""), rows)

    def write(self, path: Path) -> None:
        """Write the plan as JSON, atomically."""
        write_text_atomically(path, self.model_dump_json(indent=2) + "\n")

    @classmethod
    def read(cls, path: Path) -> "RemovalPlan":
        """Read a plan.

        Raises:
            InputError: if the file is missing, is not JSON or does not describe a plan.
        """
        try:
            return cls.model_validate(read_json(path, largest=_LARGEST))
        except OSError as error:
            raise InputError(f"cannot read the plan {path}: {error.strerror}") from error
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(str(part) for part in first["loc"]) or "the file"
            raise InputError(f"{path} is not a removal plan: {place}: {first['msg']}") from error
        except ValueError as error:
            raise InputError(f"{path} is not a removal plan: {error}") from error


def _of_layer(several: Sequence[LayerRemoval]) -> str:
    """What a layer loses of its parts, and of the experts in one of them."""
    parts, *experts = several
    if all(len(each.removed) == each.size for each in several):
        return "whole"
    if not experts or not experts[0].removed:
        return f"part {runs(parts.removed)}" if parts.removed else "none"
    _, size, removed = experts[0]
    if len(removed) == size:
        return f"part {runs(parts.removed)} with all {size} experts"
    return f"{len(removed)} of {size} experts: {runs(removed)}"


def runs(numbers: Sequence[int]) -> str:
    """Ascending numbers with their runs as ranges, for example ``0-3, 7``."""
    parts = [
        [number for _, number in part] for _, part in groupby(enumerate(numbers), lambda at: at[1] - at[0])
    ]
    return ", ".join(str(part[0]) if len(part) == 1 else f"{part[0]}-{part[-1]}" for part in parts)
