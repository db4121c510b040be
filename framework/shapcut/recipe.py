"""A recipe: everything that decides a run's result, as data."""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, ByteSize, ConfigDict, Field, ValidationError, model_validator

from shapcut.errors import InputError
from shapcut.registry import did_you_mean
from shapcut.sources import Offload

PAPER_PRESET: dict[str, Any] = {
    "estimator": "paper",
    "selector": "ranking",
    "utility": "perplexity-ratio",
    "samples": 10,
    "sequence_length": 128,
}
"""The paper's choices (arXiv 2602.07804); an option given explicitly wins over the preset."""

_TARGETS = frozenset({"remove", "ratio"})


class Recipe(BaseModel):
    """The options of ``score`` and ``prune``; see the command-line reference for each.

    Exactly one target is needed to prune: ``remove`` (a number of players) or ``ratio`` (a share of them).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str
    remove: int | None = None
    ratio: float | None = None
    preset: Literal["paper"] | None = None
    granularity: Literal["block", "sublayer"] = "block"
    estimator: str = "surrogate"
    selector: str = "search"
    utility: str = "log-likelihood"
    sampler: str | None = None
    budget: Annotated[int, Field(ge=1)] = 500
    calibration: str = "builtin"
    samples: Annotated[int, Field(ge=1)] = 16
    sequence_length: Annotated[int, Field(ge=2)] = 128
    finalist_samples: Annotated[int, Field(ge=0)] = 32
    mend_finalists: bool = False
    held_out_samples: Annotated[int, Field(ge=1)] = 32
    then: tuple[str, ...] = ()
    device: str = "auto"
    executor: str = "local"
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    memory_budget: Annotated[ByteSize, Field(ge=1)] | None = None
    batch_size: Annotated[int, Field(ge=1)] | None = None
    compile: Literal["auto", "on", "off"] = "auto"
    offload: Offload = "off"
    seed: Annotated[int, Field(ge=0)] = 0
    trust_remote_code: bool = False

    @model_validator(mode="after")
    def _one_target_at_most(self) -> Self:
        if self.remove is not None and self.ratio is not None:
            raise ValueError(f"two targets at once: remove {self.remove} and ratio {self.ratio}; give one")
        if self.remove is not None and self.remove < 1:
            raise ValueError(f"remove {self.remove}: at least one player must go")
        if self.ratio is not None and not 0.0 < self.ratio < 1.0:
            raise ValueError(f"ratio {self.ratio} is not between 0 and 1")
        return self

    @property
    def has_target(self) -> bool:
        """Whether it says how much to remove."""
        return self.remove is not None or self.ratio is not None

    def n_remove(self, n_players: int) -> int:
        """How many of ``n_players`` players are to be removed.

        Raises:
            InputError: if there is no target, or it leaves nothing to remove or nothing to keep.
        """
        if not self.has_target:
            raise InputError("no target: give --remove N or --ratio R")
        number = self.remove if self.remove is not None else round((self.ratio or 0.0) * n_players)
        if not 1 <= number < n_players:
            asked = f"--remove {self.remove}" if self.remove is not None else f"--ratio {self.ratio}"
            raise InputError(
                f"{asked}: of the model's {n_players} players 1 to {n_players - 1} can be removed"
            )
        return number

    def to_yaml(self) -> str:
        """The recipe as YAML; reading it back gives an equal recipe."""
        return yaml.safe_dump(self.model_dump(mode="json", exclude_none=True), sort_keys=False)


def make_recipe(options: dict[str, Any], file: Path | None = None) -> Recipe:
    """A recipe from a file and explicit options, which win; a preset fills what neither says.

    An explicit target replaces the file's, whichever of the two it is.

    Args:
        options: by field name; entries that are None count as not given.
        file: a YAML recipe, or None.

    Raises:
        InputError: on unknown keys, wrong values or an unreadable file, naming the key.
    """
    given = {key: value for key, value in options.items() if value is not None}
    content = _read(file) if file is not None else {}
    if not _TARGETS.isdisjoint(given):
        content = {key: value for key, value in content.items() if key not in _TARGETS}
    content |= given
    if content.get("preset") == "paper":
        content = {**PAPER_PRESET, **content}
    try:
        return Recipe.model_validate(content)
    except ValidationError as error:
        raise InputError(_explain(error, file)) from error


def _read(file: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read the recipe {file}: {error}") from error
    except yaml.YAMLError as error:
        raise InputError(f"the recipe {file} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise InputError(f"the recipe {file} is not a mapping of options to values")
    return content


def _explain(error: ValidationError, file: Path | None) -> str:
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"])
    where = f"recipe {file}: " if file is not None else ""
    if first["type"] == "extra_forbidden":
        return f"{where}unknown key {key!r}: {did_you_mean(key, Recipe.model_fields)}"
    if first["type"] == "missing":
        return f"{where}{key} is not given"
    if first["type"] == "value_error":
        return where + first["msg"].removeprefix("Value error, ")
    return f"{where}{key.replace('_', '-')} {first['input']}: {first['msg']}"
