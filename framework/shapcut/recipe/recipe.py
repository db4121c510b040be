"""A recipe: everything that decides a run's result, as data."""

from pathlib import Path
from typing import Annotated, Any, Self

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ByteSize,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
    model_validator,
)
from pydantic_core import ErrorDetails

from shapcut.game.checkpoint_form import AllowedForm
from shapcut.game.granularity import Granularity
from shapcut.game.groups import require_equal
from shapcut.models.placement import Dtype, Offload
from shapcut.recipe.cache_limit import cache_limit
from shapcut.recipe.fields import FIELDS, Compile, Vocabulary
from shapcut.recipe.methods import METHODS
from shapcut.recipe.wording import accepted_values
from shapcut.recipe.yaml_file import read_recipe_file
from shapcut.support.errors import InputError
from shapcut.support.spec import Spec
from shapcut.support.suggest import did_you_mean

_PAPER_TEXT = {"samples": 10, "sequence_length": 128, "vocabulary": "whole"}
"""The paper's calibration text (arXiv 2602.07804), and its exact losses."""

_LONGEST_SHOWN = 60

_TARGETS = ("remove", "ratio", "parameters", "memory", "cache", "speedup")
_UNITS = ((10**9, "B"), (10**6, "M"), (10**3, "k"))
_BINARY = ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB"))
_COUNTS = {"k": 10**3, "M": 10**6, "B": 10**9, "G": 10**9}


def _several(given: Any) -> Any:
    """``a,b,c`` as a list."""
    return given.split(",") if isinstance(given, str) and "," in given else given


def _number_with_unit(given: Any) -> Any:
    """``100M`` as a number."""
    text = given.strip() if isinstance(given, str) else ""
    if text[-1:] not in _COUNTS:
        return given
    try:
        return round(float(text[:-1]) * _COUNTS[text[-1]])
    except (ValueError, OverflowError):
        return given


def _plain_limit(given: str) -> str:
    """A limit of the cache without spaces."""
    cache_limit(given)
    return "".join(given.split())


def _schema_with_unit(example: str) -> WithJsonSchema:
    description = f"a whole number, with a unit or without ({example})"
    return WithJsonSchema({"type": ["integer", "string"], "description": description}, mode="validation")


_Number = Annotated[int, BeforeValidator(_number_with_unit), _schema_with_unit("100M")]
_Size = Annotated[ByteSize, _schema_with_unit("250MiB")]
_Cache = Annotated[
    str,
    AfterValidator(_plain_limit),
    WithJsonSchema(
        {"type": "string", "description": "a size and a number of tokens (64MB@4096)"}, mode="validation"
    ),
]
_Switch = Annotated[bool, Field(strict=True)]
_Several = BeforeValidator(_several)


class Recipe(BaseModel):
    """The options of ``score`` and ``prune``; docs/recipes.md has a line for each.

    Exactly one target is needed to prune: ``remove`` (a number of players), ``ratio`` (a share of them, or of
    the parameters with granularity ``mixed``),
    ``parameters`` or ``memory`` (what may stay at most, of the model and of its checkpoint's weights),
    ``cache`` (the same of the cache after a number of tokens) or ``speedup`` (how many times faster than the
    whole model). Several amounts of it are several cuts of one run; ``nested`` makes each a part of the next
    larger one.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str
    remove: Annotated[int | tuple[int, ...] | None, _Several] = FIELDS["remove"].default
    ratio: Annotated[float | tuple[float, ...] | None, _Several] = FIELDS["ratio"].default
    parameters: Annotated[_Number | tuple[_Number, ...] | None, _Several] = FIELDS["parameters"].default
    memory: Annotated[_Size | tuple[_Size, ...] | None, _Several] = FIELDS["memory"].default
    cache: Annotated[_Cache | tuple[_Cache, ...] | None, _Several] = FIELDS["cache"].default
    speedup: Annotated[float | tuple[float, ...] | None, _Several] = FIELDS["speedup"].default
    nested: _Switch = FIELDS["nested"].default
    preset: str | None = FIELDS["preset"].default
    granularity: Granularity = FIELDS["granularity"].default
    form: AllowedForm = FIELDS["form"].default
    estimator: Spec = FIELDS["estimator"].default
    selector: Spec = FIELDS["selector"].default
    utility: Spec = FIELDS["utility"].default
    sampler: Spec | None = FIELDS["sampler"].default
    budget: Annotated[int, Field(ge=1)] = FIELDS["budget"].default
    calibration: str = FIELDS["calibration"].default
    samples: Annotated[int, Field(ge=1)] = FIELDS["samples"].default
    sequence_length: Annotated[int, Field(ge=2)] = FIELDS["sequence_length"].default
    finalist_samples: Annotated[int, Field(ge=0)] = FIELDS["finalist_samples"].default
    mend_finalists: _Switch = FIELDS["mend_finalists"].default
    held_out_samples: Annotated[int, Field(ge=1)] = FIELDS["held_out_samples"].default
    judge_on: tuple[str, ...] | None = FIELDS["judge_on"].default
    tasks: str | None = FIELDS["tasks"].default
    task_data: str | None = FIELDS["task_data"].default
    limit: Annotated[int, Field(ge=1)] | None = FIELDS["limit"].default
    then: tuple[Spec, ...] = FIELDS["then"].default
    mend: _Switch | None = FIELDS["mend"].default
    device: str = FIELDS["device"].default
    executor: Spec = FIELDS["executor"].default
    dtype: Dtype = FIELDS["dtype"].default
    memory_budget: Annotated[_Size, Field(ge=1)] | None = FIELDS["memory_budget"].default
    batch_size: Annotated[int, Field(ge=1)] | None = FIELDS["batch_size"].default
    compile: Compile = FIELDS["compile"].default
    vocabulary: Vocabulary = FIELDS["vocabulary"].default
    offload: Offload = FIELDS["offload"].default
    seed: Annotated[int, Field(ge=0)] = FIELDS["seed"].default
    trust_remote_code: _Switch = FIELDS["trust_remote_code"].default
    revision: str | None = FIELDS["revision"].default
    text_only: _Switch = FIELDS["text_only"].default

    @field_validator("*", mode="before")
    @classmethod
    def _no_number_is_a_switch(cls, given: Any, info: ValidationInfo) -> Any:
        """YAML's ``yes`` is not the number 1."""
        switches = [name for name, field in FIELDS.items() if field.is_switch]
        items = given if isinstance(given, (list, tuple)) else [given]
        if info.field_name not in switches and any(isinstance(item, bool) for item in items):
            raise ValueError
        return given

    @model_validator(mode="before")
    @classmethod
    def _mixed_methods(cls, given: Any) -> Any:
        """Parts and experts have an estimator and a selector of their own."""
        if isinstance(given, dict) and given.get("granularity") == "mixed":
            return {"estimator": "mixed", "selector": "mixed", **given}
        return given

    @model_validator(mode="after")
    def _one_target_at_most(self) -> Self:
        given = [f"{name} {getattr(self, name)}" for name in _TARGETS if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"two targets at once: {given[0]} and {given[1]}; give one")
        kind, amounts = self.target_amounts()
        if len(set(amounts)) < len(amounts) or (given and not amounts):
            raise ValueError(f"{given[0]}: name different amounts")
        if self.granularity == "mixed" and kind in {"remove", "cache"}:
            raise ValueError(
                f"{given[0]}: with granularity mixed a target counts parameters or time; "
                "give ratio, parameters, memory or speedup"
            )
        if self.granularity == "mixed" and self.nested:
            raise ValueError("nested: a mixed cut is not made of smaller ones; leave it out")
        for amount in amounts:
            if kind == "remove" and amount < 1:
                raise ValueError(f"remove {amount}: at least one player must go")
            if kind == "ratio" and not 0.0 < amount < 1.0:
                raise ValueError(f"ratio {amount} is not between 0 and 1; 0.25 removes a quarter")
            if kind in {"parameters", "memory"} and amount < 1:
                raise ValueError(f"{kind} {amount} is not positive")
            if kind == "speedup" and not 1.0 < amount < float("inf"):
                raise ValueError(f"speedup {amount} is not more than 1")
        return self

    def target_amounts(self) -> tuple[str, tuple[Any, ...]]:
        """Which target is given, and its amounts; no amounts if there is none."""
        for kind in _TARGETS:
            amounts = getattr(self, kind)
            if amounts is not None:
                return kind, amounts if isinstance(amounts, tuple) else (amounts,)
        return "", ()

    def target_labels(self) -> list[str]:
        """The targets as parts of file names, such as ``ratio-0.1``."""
        kind, amounts = self.target_amounts()
        return [amount_label(kind, amount) for amount in amounts]

    @property
    def cache_lengths(self) -> tuple[int, ...]:
        """The numbers of tokens after which the recipe limits the cache, ascending."""
        kind, amounts = self.target_amounts()
        return tuple(sorted({cache_limit(each).length for each in amounts})) if kind == "cache" else ()

    @property
    def has_target(self) -> bool:
        """Whether the recipe has a target."""
        return bool(self.target_amounts()[1])

    def n_remove(self, n_players: int, n_groups: int = 1) -> int:
        """How many of ``n_players`` players a number or share removes, the largest if there are several.

        With several groups of players, each loses equally many; see `number`.

        Raises:
            InputError: if there is no target, or it leaves nothing to remove or nothing to keep.
        """
        self.require_target(n_players, n_groups)
        if self.granularity == "mixed":
            raise InputError("a number of players is no target with --granularity mixed; use prune")
        kind, amounts = self.target_amounts()
        return max(self.number(kind, amount, n_players, n_groups) for amount in amounts)

    def require_target(self, n_players: int, n_groups: int = 1) -> None:
        """Check that there is a target, and that a number or share fits ``n_players`` players.

        Raises:
            InputError: otherwise.
        """
        kind, amounts = self.target_amounts()
        if not amounts:
            options = "--remove N, --ratio R, --parameters N, --memory SIZE, --cache SIZE@N or --speedup S"
            raise InputError(f"no target: give {options}")
        if kind in {"remove", "ratio"} and self.granularity != "mixed":
            for amount in amounts:
                self.number(kind, amount, n_players, n_groups)

    @staticmethod
    def number(kind: str, amount: float, n_players: int, n_groups: int = 1) -> int:
        """How many of ``n_players`` players a number (``remove``) or a share (``ratio``) stands for.

        A share is rounded to a whole number for each of ``n_groups`` groups.

        Raises:
            InputError: if it leaves nothing to remove or nothing to keep, or groups cannot lose equally many.
        """
        number = int(amount) if kind == "remove" else round(amount * n_players / n_groups) * n_groups
        most = n_players - n_groups
        if not n_groups <= number <= most:
            raise InputError(
                f"--{kind} {amount}: of the model's {n_players} players {n_groups} to {most} can be removed"
            )
        require_equal(number, n_groups, most, f"--{kind} {amount}")
        return number

    def mended_by_default(self, *, as_file: bool) -> Self:
        """The recipe with `mend` decided: on unless it says otherwise, but off for a GGUF file.

        Args:
            as_file: whether the result is a GGUF file, which keeps the original's bytes.
        """
        return self if self.mend is not None else self.model_copy(update={"mend": not as_file})

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
    content = read_recipe_file(file) if file is not None else {}
    if not given.keys().isdisjoint(_TARGETS):
        content = {key: value for key, value in content.items() if key not in _TARGETS}
    content |= given
    if (preset := content.get("preset")) is not None:
        content = {**preset_options(str(preset)), **content}
    try:
        return Recipe.model_validate(content)
    except ValidationError as error:
        raise InputError(_explain(error.errors()[0], content, given, file)) from error


def preset_options(name: str) -> dict[str, Any]:
    """The options of a named method; explicit options override them.

    Raises:
        InputError: if the name is unknown.
    """
    if name not in METHODS:
        raise InputError(f"unknown preset {name!r}: {did_you_mean(name, METHODS)}")
    method = METHODS[name]
    options = {"estimator": method.estimator, "selector": method.selector, "utility": method.utility}
    as_published = {} if name == "ours" else {"mend": False}
    return options | as_published | (_PAPER_TEXT if name == "paper" else {})


def _explain(error: ErrorDetails, content: dict[str, Any], given: dict[str, Any], file: Path | None) -> str:
    """One line: where, which key, what it says, what is accepted."""
    path = error["loc"]
    name = str(path[0]) if path else ""
    where = f"recipe {file}: " if file is not None and name not in given else ""
    if error["type"] == "extra_forbidden":
        return f"{where}unknown key {name!r}: {did_you_mean(name, Recipe.model_fields)}"
    if error["type"] == "missing":
        return f"{where}{name} is not given"
    if not path:
        return where + error["msg"].removeprefix("Value error, ")
    item = content[name]
    if name == "then" and len(path) > 1 and isinstance(path[1], int):
        name, item = f"{name}.{path[1]}", item[path[1]]
    key = name if where else name.replace("_", "-")
    if error["type"] == "spec":
        return f"{where}{key}: {error['msg']}"
    accepted = accepted_values(recipe_properties()[str(path[0])], item=name != path[0])
    return f"{where}{key} {_shown(item, quoted=bool(where))}: give {accepted}"


def recipe_properties() -> dict[str, Any]:
    """The JSON schema of each key."""
    properties: dict[str, Any] = Recipe.model_json_schema()["properties"]
    return properties


def _shown(value: Any, *, quoted: bool) -> str:
    """A value, shortened; the command line's are text anyway, in a file quotes tell."""
    text = str(value) if isinstance(value, str) and not quoted else repr(value)
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}..."


def amount_label(kind: str, amount: float | str) -> str:
    """A target as part of a file name: ``ratio-0.1``, ``parameters-100M``, ``memory-250MiB``."""
    if isinstance(amount, str):
        return f"{kind}-{amount}"
    units = {"parameters": _UNITS, "memory": _BINARY}.get(kind, ())
    for size, unit in units:
        if amount >= size and amount * 1000 % size == 0:
            return f"{kind}-{amount / size:g}{unit}"
    return f"{kind}-{amount:g}" if kind in {"ratio", "speedup"} else f"{kind}-{amount:.0f}"
