"""Named things that plugins offer, and how ``NAME:key=value,...`` on a command line becomes one of them."""

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, cast

from pydantic import ConfigDict, ValidationError, validate_call

from shapcut.support.errors import InputError, ShapcutError
from shapcut.support.spec import LIST_SEPARATOR, parse_options, required_first
from shapcut.support.suggest import did_you_mean

T = TypeVar("T")

_converting = validate_call(config=ConfigDict(arbitrary_types_allowed=True))


@dataclass(frozen=True, slots=True)
class Entry(Generic[T]):
    """One registered factory and the distribution that it came from."""

    name: str
    factory: Callable[..., T]
    distribution: str


class Registry(Generic[T]):
    """Factories of one kind, by name."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._entries: dict[str, Entry[T]] = {}

    def __iter__(self) -> Iterator[Entry[T]]:
        return iter(self._entries.values())

    def add(self, name: str, factory: Callable[..., T], distribution: str) -> None:
        """Register a factory.

        Raises:
            ShapcutError: if the name is taken; both distributions are named.
        """
        if name in self._entries:
            other = self._entries[name].distribution
            raise ShapcutError(f"{self.kind} {name!r} is offered by both {other} and {distribution}")
        self._entries[name] = Entry(name, factory, distribution)

    def entry(self, name: str) -> Entry[T]:
        """The entry of that name.

        Raises:
            InputError: if there is none, with a suggestion.
        """
        if name not in self._entries:
            raise InputError(f"unknown {self.kind} {name!r}: {did_you_mean(name, self._entries)}")
        return self._entries[name]

    def create(self, spec: str, **objects: Any) -> T:
        """Make the thing that ``NAME`` or ``NAME:key=value,key=value`` describes.

        A first part that is no ``key=value`` is the value of the first option, if that has no default:
        ``shapiq:KernelSHAP``. The items of a list have ``+`` between them. Values are converted to the types
        that the factory's parameters declare; ``objects`` are options that are not text.

        Raises:
            InputError: if the name or a key is unknown, or a value does not fit.
        """
        name, _, text = spec.partition(":")
        entry = self.entry(name)
        parameters = inspect.signature(entry.factory).parameters
        options: dict[str, Any] = parse_options(text, spec, required_first(parameters)) | objects
        known = list(parameters)
        for key, value in options.items():
            if key not in known:
                raise InputError(f"{self.kind} {name!r} has no option {key!r}: {did_you_mean(key, known)}")
            if isinstance(value, str) and "tuple[" in str(parameters[key].annotation):
                options[key] = tuple(value.split(LIST_SEPARATOR))
        try:
            return _validated(entry.factory)(**options)
        except ValidationError as error:
            first = error.errors()[0]
            option = ".".join(str(part) for part in first["loc"])
            if first["type"].startswith("missing"):
                raise InputError(f"{self.kind} {name!r} needs the option {option}: {name}:VALUE") from error
            raise InputError(
                f"{self.kind} {name!r}: option {option}={first['input']!r}: {first['msg']}"
            ) from error
        except ValueError as error:
            raise InputError(f"{self.kind} {name!r}: {error}") from error


def _validated(factory: Callable[..., T]) -> Callable[..., T]:
    """The factory with its keyword arguments converted to the annotated types by pydantic."""
    if not inspect.isclass(factory):
        return _converting(factory)

    def make(**options: Any) -> T:
        return cast("T", factory(**options))

    make.__signature__ = inspect.signature(factory)  # type: ignore[attr-defined]
    if factory.__init__ is not object.__init__:
        hints = inspect.get_annotations(factory.__init__, eval_str=True)
        make.__annotations__ = {name: hint for name, hint in hints.items() if name != "return"}
    return _converting(make)
