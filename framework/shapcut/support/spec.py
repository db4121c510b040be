"""The text form of a name with options: ``NAME:key=value,...``, or a mapping in a recipe."""

import inspect
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, WithJsonSchema
from pydantic_core import PydanticCustomError

from shapcut.support.errors import InputError

LIST_SEPARATOR = "+"
"""Separates the items of a list option."""

_FORMS = "NAME, NAME:key=value,... or a mapping {NAME: {key: value}}"


def spec_text(given: Any) -> Any:
    """``{gptq: {bits: 4}}`` as ``gptq:bits=4``; any other value is returned unchanged.

    Raises:
        PydanticCustomError: if a mapping has another form, or a value has no text form.
    """
    if not isinstance(given, Mapping):
        return given
    if len(given) != 1 or not all(isinstance(name, str) for name in given):
        raise _refusal("one name with its options is wanted in each mapping")
    ((name, options),) = given.items()
    if not options and not isinstance(options, (str, int)):
        return name
    if not isinstance(options, Mapping):
        raise _refusal(f"the options of {name!r} are no mapping")
    return f"{name}:{','.join(f'{key}={_value(name, key, value)}' for key, value in options.items())}"


def _value(name: str, key: Any, value: Any) -> str:
    if isinstance(value, list):
        return LIST_SEPARATOR.join(_value(name, key, item) for item in value)
    if not isinstance(value, (str, int, float)):
        raise _refusal(f"{name}.{key} is neither text, number, true, false nor a list of them")
    text = str(value).lower() if isinstance(value, bool) else str(value)
    if "," in text:
        raise _refusal(f"{name}.{key} has a comma, which would end the value")
    return text


def _refusal(reason: str) -> PydanticCustomError:
    return PydanticCustomError("spec", "{reason}: give {forms}", {"reason": reason, "forms": _FORMS})


Spec = Annotated[
    str,
    Field(min_length=1),
    BeforeValidator(spec_text),
    WithJsonSchema(
        {
            "description": _FORMS,
            "anyOf": [
                {"type": "string", "minLength": 1},
                {
                    "type": "object",
                    "minProperties": 1,
                    "maxProperties": 1,
                    "additionalProperties": {
                        "anyOf": [
                            {"type": "null"},
                            {
                                "type": "object",
                                "additionalProperties": {"type": ["string", "number", "boolean", "array"]},
                            },
                        ]
                    },
                },
            ],
        },
        mode="validation",
    ),
]
"""A name with options."""


def required_first(parameters: Mapping[str, inspect.Parameter]) -> str | None:
    """The name of the first parameter if it is required; its option may omit the name."""
    first = next(iter(parameters.values()), None)
    named = first is not None and first.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
    return first.name if named and first and first.default is inspect.Parameter.empty else None


def parse_options(text: str, spec: str, unnamed: str | None = None) -> dict[str, str]:
    """Parse the ``key=value`` pairs of an option text; a first part without a key belongs to ``unnamed``.

    Raises:
        InputError: if a part is not of the form ``key=value``, or a key is repeated.
    """
    options: dict[str, str] = {}
    for number, part in enumerate(filter(None, text.split(","))):
        key, equals, value = part.partition("=")
        if number == 0 and unnamed and not equals:
            options[unnamed] = part.strip()
            continue
        if not equals or not key.strip():
            raise InputError(f"{spec!r}: {part!r} is not of the form key=value")
        if key.strip() in options:
            raise InputError(f"{spec!r}: {key.strip()!r} is given twice; leave one out")
        options[key.strip()] = value.strip()
    return options
