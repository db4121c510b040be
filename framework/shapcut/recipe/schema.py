"""The JSON schema of a recipe, for editors."""

from typing import Any

from shapcut.recipe.fields import FIELDS, MODEL
from shapcut.recipe.recipe import Recipe


def recipe_schema() -> dict[str, Any]:
    """The schema: what it accepts is accepted; as on the command line, numbers may also be given as text."""
    schema = Recipe.model_json_schema()
    for name, content in schema["properties"].items():
        content.pop("title", None)
        content["description"] = meaning(name)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "A shapcut recipe"}


def meaning(key: str) -> str:
    """What a key of a recipe means."""
    return f"{MODEL}; MODEL on the command line" if key == "model" else FIELDS[key].meaning
