"""Every option has its key in a recipe, every key its option, and the published schema says what there is."""

import json
from pathlib import Path
from typing import Any

import pytest

from shapcut.cli.app import build_app
from shapcut.host.host import build_host
from shapcut.pipeline.parts import make_parts
from shapcut.recipe.recipe import Recipe, make_recipe
from shapcut.recipe.schema import meaning, recipe_schema
from shapcut.recipe.yaml_file import read_recipe_file

ROOT = Path(__file__).parents[3]
COMMAND_ONLY = {
    "score": {"json", "log-level", "dry-run", "run", "recipe", "throughput"},
    "prune": {"json", "log-level", "dry-run", "run", "recipe", "throughput", "out", "push-to-hub"},
    "compare": {
        "json",
        "log-level",
        "run",
        "csv",
        "methods",
        "ratios",
        "seeds",
        "held-out",
        "held-out-length",
    },
}
"""Options that say how a command is run, or what is compared, not what a run's result depends on."""

NOT_COMPARED = {
    *("ratio", "parameters", "memory", "cache", "speedup", "nested", "mend", "mend-finalists"),
    *("preset", "estimator", "selector", "sampler", "then", "seed", "executor"),
}
"""Keys that `compare` gives in another form, or decides itself."""


def options_of(command: str) -> set[str]:
    """The long names of a command's options, without the dashes."""
    group: Any = build_app()
    parameters = group.commands[command].params
    options = [parameter for parameter in parameters if parameter.param_type_name == "option"]
    return {name.removeprefix("--") for option in options for name in option.opts if name.startswith("--")}


@pytest.mark.parametrize("command", ["score", "prune"])
def test_options_and_keys_are_the_same(command: str) -> None:
    keys = {name.replace("_", "-") for name in Recipe.model_fields}
    assert options_of(command) - COMMAND_ONLY[command] == keys - {"model"}
    assert COMMAND_ONLY[command] <= options_of(command)


def test_options_that_comparisons_share_have_keys() -> None:
    keys = {name.replace("_", "-") for name in Recipe.model_fields}
    shared = options_of("compare") - COMMAND_ONLY["compare"]
    missing = {name for name in shared if name not in keys}
    assert not missing
    assert {name for name in keys - shared if name != "model"} <= NOT_COMPARED


def test_every_key_has_a_meaning() -> None:
    assert all(len(meaning(key)) > 5 and "[default" not in meaning(key) for key in Recipe.model_fields)


def test_the_published_schema_is_that_of_the_code() -> None:
    published = json.loads((ROOT / "docs" / "recipe-schema.json").read_text(encoding="utf-8"))
    assert published == recipe_schema(), "run: make recipes"


@pytest.fixture
def example(tmp_path: Path) -> Path:
    """The complete example of the documentation."""
    page = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")
    file = tmp_path / "run.yaml"
    file.write_text(page.split("```yaml\n", 1)[1].split("```", 1)[0], encoding="utf-8")
    return file


def test_the_documented_example_is_complete_and_is_taken(example: Path) -> None:
    recipe = make_recipe({}, example)
    others = {"remove", "parameters", "memory", "cache", "speedup", "preset", "sampler", "revision"}
    assert set(read_recipe_file(example)) == set(Recipe.model_fields) - others
    parts = make_parts(recipe, build_host())
    assert [spec for spec, _ in parts.steps] == ["compensate", "gptq:bits=4,group_size=32"]


def accepts(schema: Any, value: Any) -> bool:
    """Whether a value is of a type that a property's schema names."""
    if "anyOf" in schema:
        return any(accepts(option, value) for option in schema["anyOf"])
    types = {"integer": int, "number": (int, float), "boolean": bool, "string": str, "array": list}
    types |= {"object": dict, "null": type(None)}
    named = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    if isinstance(value, list) and "items" in schema and not all(accepts(schema["items"], v) for v in value):
        return False
    if "enum" in schema and value not in schema["enum"]:
        return False
    return any(
        isinstance(value, types[name]) and isinstance(value, bool) <= (name == "boolean") for name in named
    )


def test_the_example_fits_the_schema(example: Path) -> None:
    properties = recipe_schema()["properties"]
    for key, value in read_recipe_file(example).items():
        assert accepts(properties[key], value), key
    assert not accepts(properties["budget"], "many")
    assert not accepts(properties["dtype"], "int8")
