"""Create registered objects from options given as text."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeVar, cast

from pydantic import ConfigDict, ValidationError, validate_call

from shapcut.host.entry import Entry
from shapcut.support.errors import InputError, ShapcutError
from shapcut.support.spec import LIST_SEPARATOR, parse_options, required_first
from shapcut.support.suggest import did_you_mean

T = TypeVar("T")

_WANTED = {
    "int_parsing": "give a whole number",
    "int_from_float": "give a whole number",
    "float_parsing": "give a number",
    "bool_parsing": "give true or false",
}
"""What to give instead, by pydantic's type of error."""

_converting = validate_call(config=ConfigDict(arbitrary_types_allowed=True))


def make(kind: str, entry: Entry[T], text: str, objects: Mapping[str, Any]) -> T:
    """Call a factory with options parsed from text and converted to its parameters' types.

    Args:
        kind: kind of the registration, for messages.
        entry: the registration.
        text: ``key=value,...``.
        objects: options that are not text.

    Raises:
        InputError: if a key is unknown, or a value does not fit.
        ShapcutError: if the factory cannot be imported, or returns None.
    """
    factory, called = entry.factory, f"{kind} {entry.name!r}"
    options = _options(called, entry.name, inspect.signature(factory).parameters, text, objects)
    try:
        made = _validated(factory)(**options)
    except ValidationError as error:
        raise InputError(_explained(called, entry.name, error)) from error
    except ValueError as error:
        raise InputError(f"{called}: {error}") from error
    if made is None:
        raise ShapcutError(f"{entry.origin}: the factory of {called} returns None")
    return made


def _options(
    called: str,
    name: str,
    parameters: Mapping[str, inspect.Parameter],
    text: str,
    objects: Mapping[str, Any],
) -> dict[str, Any]:
    """The options in the text and in ``objects``; a list is split into its items."""
    spec = f"{name}:{text}" if text else name
    options: dict[str, Any] = {**parse_options(text, spec, required_first(parameters)), **objects}
    for key, value in options.items():
        if key not in parameters:
            raise InputError(f"{called} has no option {key!r}: {did_you_mean(key, parameters)}")
        if isinstance(value, str) and "tuple[" in str(parameters[key].annotation):
            options[key] = tuple(value.split(LIST_SEPARATOR))
    return options


def _explained(called: str, name: str, error: ValidationError) -> str:
    first = error.errors()[0]
    option = ".".join(str(part) for part in first["loc"])
    if first["type"].startswith("missing"):
        return f"{called} needs the option {option}: {name}:VALUE"
    wanted = _WANTED.get(first["type"], first["msg"])
    return f"{called}: option {option}={first['input']!r}: {wanted}"


def _validated(factory: Callable[..., T]) -> Callable[..., T]:
    """The factory with its keyword arguments converted to the annotated types by pydantic."""
    if not inspect.isclass(factory):
        return _converting(factory)

    def call(**options: Any) -> T:
        return cast("T", factory(**options))

    call.__signature__ = inspect.signature(factory)  # type: ignore[attr-defined]
    if factory.__init__ is not object.__init__:
        hints = inspect.get_annotations(factory.__init__, eval_str=True)
        call.__annotations__ = {name: hint for name, hint in hints.items() if name != "return"}
    return _converting(call)
