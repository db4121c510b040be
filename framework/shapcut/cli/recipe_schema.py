"""The JSON schema of a recipe, for editors: types from the recipe, meanings from the command line's help."""

import re
from typing import Any, get_args

from typer.models import ParameterInfo

from shapcut.cli.options import RECIPE_OPTIONS
from shapcut.recipe.recipe import Recipe

_DEFAULT = re.compile(r" \[default: [^\]]*\]$")


def recipe_schema() -> dict[str, Any]:
    """The schema: what it accepts is accepted; as on the command line, numbers may also be given as text."""
    schema = Recipe.model_json_schema()
    for name, content in schema["properties"].items():
        content.pop("title", None)
        content["description"] = meaning(name)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "A shapcut recipe"}


def meaning(key: str) -> str:
    """What a key of a recipe means: the help of the option of that name, without the default."""
    if key == "model":
        return "directory, file, hub id or demo:smollm2-135m; MODEL on the command line"
    infos = [info for info in get_args(RECIPE_OPTIONS[key]) if isinstance(info, ParameterInfo)]
    return _DEFAULT.sub("", infos[0].help or "")
