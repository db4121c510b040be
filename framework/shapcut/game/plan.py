"""What is to be removed, as plain data that a person can read and a later command can carry out."""

from collections.abc import Sequence
from operator import index
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from shapcut.support.errors import InputError
from shapcut.support.files import write_text_atomically
from shapcut.support.plain_json import read_json

_LARGEST = 2**24

Index = Annotated[int, Field(ge=0, strict=True)]
Value = Annotated[float, Field(strict=True)]


class RemovalPlan(BaseModel):
    """Which players go and which stay; indices count the original model's players from 0.

    Attributes:
        model_fingerprint: of the model that the plan was made for; empty if it is not tied to one.
        granularity: what a player is.
        removed: players to remove, ascending.
        kept: players that stay, ascending.
        predicted_value: the surrogate's value of what stays, in the utility's unit.
        measured_value: the game's value of what stays, or None if it was not measured.
        full_value: the value of the whole model, or None.
        final_value: the value on the larger sample that finalists were compared on, or None.
        utility: name of the utility that the values are in.
        method: estimator and selector that led here.
        reason: one sentence on why this set.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format_version: Literal[1] = 1
    model_fingerprint: str = ""
    granularity: Literal["block", "sublayer"] = "block"
    removed: tuple[Index, ...]
    kept: tuple[Index, ...]
    predicted_value: Value | None = None
    measured_value: Value | None = None
    full_value: Value | None = None
    final_value: Value | None = None
    utility: str = ""
    method: str = ""
    reason: str = ""

    @model_validator(mode="after")
    def _indices_partition_the_players(self) -> Self:
        everyone = sorted((*self.removed, *self.kept))
        if everyone != list(range(len(everyone))):
            raise ValueError("removed and kept must together name every player exactly once")
        if list(self.removed) != sorted(self.removed) or list(self.kept) != sorted(self.kept):
            raise ValueError("removed and kept must be ascending")
        return self

    @classmethod
    def removing(cls, removed: Sequence[int], n_players: int, **fields: object) -> "RemovalPlan":
        """A plan that removes these players of ``n_players``; other attributes by keyword.

        Raises:
            InputError: if a player is removed that does not exist, or twice.
        """
        wrong = [player for player in removed if isinstance(player, bool) or not hasattr(player, "__index__")]
        if wrong:
            raise InputError(f"player {wrong[0]!r} cannot be removed: players are counted in whole numbers")
        gone = sorted(map(index, removed))
        if out := [player for player in gone if not 0 <= player < n_players]:
            raise InputError(f"player {out[-1]} cannot be removed: there are only 0 to {n_players - 1}")
        if len(set(gone)) < len(gone):
            raise InputError(f"players {gone} cannot be removed: one is there twice")
        kept = [player for player in range(n_players) if player not in gone]
        return cls.model_validate({"removed": tuple(gone), "kept": tuple(kept), **fields})

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
