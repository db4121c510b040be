"""What a JSON schema accepts, in words."""

from typing import Any

_TYPES = {
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "string": "text",
    "array": "a list",
}

_BOUNDS = {
    "minimum": "at least",
    "exclusiveMinimum": "more than",
    "maximum": "at most",
    "exclusiveMaximum": "less than",
}


def accepted_values(schema: dict[str, Any], *, item: bool = False) -> str:
    """What a property takes, such as ``a whole number of at least 1``.

    Args:
        schema: of the property; one without a description says it by its type.
        item: whether what is asked about is an item of a list.
    """
    if item and "items" in schema:
        schema = schema["items"]
    options = [option for option in schema.get("anyOf", []) if option.get("type") != "null"]
    if "description" in schema or not options:
        return _one(schema)
    several = [" or a list of them" for option in options if option.get("items") in options]
    return " or ".join(_one(option) for option in options if option.get("items") not in options) + "".join(
        several
    )


def _one(schema: dict[str, Any]) -> str:
    if "description" in schema:
        return str(schema["description"])
    if "enum" in schema:
        return f"one of {', '.join(map(str, schema['enum']))}"
    if "items" in schema:
        return f"a list of which each item is {accepted_values(schema['items'])}"
    bounds = [f"{words} {schema[key]}" for key, words in _BOUNDS.items() if key in schema]
    if "maxLength" in schema:
        bounds.append(f"at most {schema['maxLength']} characters")
    return _TYPES[schema["type"]] + (f" of {' and '.join(bounds)}" if bounds else "")
