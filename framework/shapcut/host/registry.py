"""Registries of named factories, called with options from ``NAME:key=value,...``."""

from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar

from shapcut.host.entry import Entry
from shapcut.support.errors import InputError, ShapcutError
from shapcut.support.suggest import did_you_mean

T = TypeVar("T")


class Registry(Generic[T]):
    """Factories of one kind, by name."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._entries: dict[str, Entry[T]] = {}

    def __iter__(self) -> Iterator[Entry[T]]:
        return iter(self._entries.values())

    def add(self, name: str, target: Callable[..., T] | str, distribution: str, plugin: str = "") -> None:
        """Register a factory, or the ``module:name`` of one.

        Raises:
            ShapcutError: if the name is taken; the message names both distributions.
        """
        if name in self._entries:
            other = self._entries[name].distribution
            raise ShapcutError(f"{self.kind} {name!r} is offered by both {other} and {distribution}")
        self._entries[name] = Entry(name, target, distribution, plugin or distribution)

    def entry(self, name: str) -> Entry[T]:
        """The entry with this name.

        Raises:
            InputError: if the name is unknown, with a suggestion.
        """
        if name not in self._entries:
            raise InputError(f"unknown {self.kind} {name!r}: {did_you_mean(name, self._entries)}")
        return self._entries[name]

    def create(self, spec: str, **objects: Any) -> T:
        """Create an object from ``NAME`` or ``NAME:key=value,key=value``.

        A first part without ``=`` is the value of the first option, if that has no default:
        ``shapiq:KernelSHAP``. List items are joined by ``+``. Values are converted to the types of the
        factory's parameters; ``objects`` are options that are not text.

        Raises:
            InputError: if the name or a key is unknown, or a value does not fit.
            ShapcutError: if the factory cannot be imported, or returns None.
        """
        from shapcut.host.making import make  # noqa: PLC0415 - imports pydantic

        name, _, text = spec.partition(":")
        return make(self.kind, self.entry(name), text, objects)
