"""One registration of a plugin: its name, factory and origin."""

import importlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar, cast

from shapcut.support.errors import ShapcutError
from shapcut.support.quiet import quiet_libraries

T = TypeVar("T")

REFERENCE = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*")
"""``module:name``."""


@dataclass(frozen=True, slots=True)
class Entry(Generic[T]):
    """One registration.

    Attributes:
        name: the registered name.
        target: the factory, or its ``module:name``, which is imported on first use.
        distribution: the plugin's distribution.
        plugin: the plugin's name.
    """

    name: str
    target: Callable[..., T] | str
    distribution: str
    plugin: str

    @property
    def factory(self) -> Callable[..., T]:
        """The factory, imported if necessary.

        Raises:
            ShapcutError: if it cannot be imported; the message names the plugin, distribution and target.
        """
        if not isinstance(self.target, str):
            return self.target
        module, _, attribute = self.target.partition(":")
        failure = f"{self.origin} offers {self.name!r} as {self.target}"
        try:
            with quiet_libraries():
                found = getattr(importlib.import_module(module), attribute, None)
        except (Exception, SystemExit) as error:
            raise ShapcutError(f"{failure}, which cannot be imported: {cause(error)}") from error
        if not callable(found):
            raise ShapcutError(f"{failure}, but {module} has no {attribute} that can be called")
        return cast("Callable[..., T]", found)

    @property
    def origin(self) -> str:
        """The plugin and its distribution, for messages."""
        return f"plugin {self.plugin!r} of {self.distribution}"


def cause(error: BaseException) -> str:
    """An exception's type and message on one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())
