"""Admission of one plugin, all or nothing."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, TypeVar

import pluggy

from shapcut.host.entry import REFERENCE, cause
from shapcut.host.registry import Registry
from shapcut.support.errors import ShapcutError
from shapcut.support.suggest import did_you_mean

T = TypeVar("T")

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class Candidate(NamedTuple):
    """A plugin that has not been loaded yet."""

    name: str
    distribution: str
    version: str
    load: Callable[[], Any]

    def __str__(self) -> str:
        return f"plugin {self.name!r} of {self.distribution} {self.version}"


@dataclass(frozen=True, slots=True)
class PluginInfo:
    """An admitted plugin.

    Attributes:
        name: name of its entry point, or of its module if it belongs to the core.
        version: version of its distribution.
        distribution: name of its distribution.
        hooks: names of the hooks that it implements, sorted.
        registered: its registrations, each as "kind name", in order.
    """

    name: str
    version: str
    distribution: str
    hooks: tuple[str, ...]
    registered: tuple[str, ...]


class _Offer(NamedTuple):
    """One call of ``register``."""

    registry: Registry[Any]
    name: str
    target: Callable[..., Any] | str

    @property
    def is_taken(self) -> bool:
        return any(entry.name == self.name for entry in self.registry)


def admit(
    candidate: Candidate, manager: pluggy.PluginManager, registries: Mapping[str, Registry[Any]]
) -> PluginInfo:
    """Load a plugin and enter its hooks and registrations; on an error, undo all of them.

    Args:
        candidate: the plugin.
        manager: the plugin manager with the hook specifications.
        registries: registries by the suffix of the ``shapcut_register_*`` hook that fills them.

    Raises:
        ShapcutError: naming the plugin, its distribution and the cause.
    """
    plugin = _attempt(candidate.load, f"{candidate} cannot be imported")
    if manager.is_registered(plugin):
        raise ShapcutError(f"{candidate} is the same object as plugin {manager.get_name(plugin)!r}")
    try:
        hooks = _register(candidate, plugin, manager)
        offers = _offers(candidate, plugin, manager, registries)
        _enter(offers, candidate)
    except ShapcutError:
        if manager.is_registered(plugin):
            manager.unregister(plugin)
        raise
    registered = tuple(f"{offer.registry.kind} {offer.name}" for offer in offers)
    return PluginInfo(candidate.name, candidate.version, candidate.distribution, hooks, registered)


def _attempt(action: Callable[[], T], failure: str) -> T:
    """Run a plugin's code and turn an error of any type into one line."""
    try:
        return action()
    except ShapcutError as error:
        raise ShapcutError(f"{failure}: {error}") from error
    except (Exception, SystemExit) as error:
        raise ShapcutError(f"{failure}: {cause(error)}") from error


def _register(candidate: Candidate, plugin: object, manager: pluggy.PluginManager) -> tuple[str, ...]:
    """Register the hooks of a plugin and return their names."""
    try:
        manager.register(plugin, f"{candidate.distribution}:{candidate.name}")
        manager.check_pending()
    except (pluggy.PluginValidationError, ValueError) as error:
        raise ShapcutError(f"{candidate}: {_what_is_wrong(plugin, manager, error)}") from error
    hooks = tuple(sorted(caller.name for caller in manager.get_hookcallers(plugin) or ()))
    for name in _known_hooks(manager):
        if name not in hooks and callable(getattr(plugin, name, None)):
            raise ShapcutError(f"{candidate}: {name} lacks @hookimpl and would never be called")
    return hooks


def _known_hooks(manager: pluggy.PluginManager) -> list[str]:
    return [name for name, caller in vars(manager.hook).items() if caller.has_spec()]


def _what_is_wrong(plugin: object, manager: pluggy.PluginManager, error: Exception) -> str:
    """The unknown hook with a suggestion, or else pluggy's message on one line."""
    callers = (manager.get_hookcallers(plugin) or ()) if manager.is_registered(plugin) else ()
    for caller in callers:
        if not caller.has_spec():
            return f"unknown hook {caller.name!r}: {did_you_mean(caller.name, _known_hooks(manager))}"
    return " ".join(str(error).split())


def _offers(
    candidate: Candidate,
    plugin: object,
    manager: pluggy.PluginManager,
    registries: Mapping[str, Registry[Any]],
) -> list[_Offer]:
    """Call the plugin's ``shapcut_register_*`` hooks and collect its registrations."""
    others = [other for other in manager.get_plugins() if other is not plugin]
    offers: list[_Offer] = []
    for kind, registry in registries.items():

        def register(name: str, target: Callable[..., Any] | str, registry: Registry[Any] = registry) -> None:
            offers.append(_checked(_Offer(registry, name, target), offers))

        hook = manager.subset_hook_caller(f"shapcut_register_{kind}", others)
        _attempt(partial(hook, register=register), str(candidate))
    return offers


def _checked(offer: _Offer, earlier: list[_Offer]) -> _Offer:
    kind, name = offer.registry.kind, offer.name
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ShapcutError(f"{kind} {name!r}: a name is made of letters, digits, '.', '_' and '-'")
    if isinstance(offer.target, str):
        if not REFERENCE.fullmatch(offer.target):
            raise ShapcutError(f"{kind} {name!r} is offered as {offer.target!r}, not as 'module:name'")
    elif not callable(offer.target):
        raise ShapcutError(f"{kind} {name!r} is offered as {offer.target!r}, which cannot be called")
    if any(other.registry is offer.registry and other.name == name for other in earlier):
        raise ShapcutError(f"{kind} {name!r} is offered twice")
    return offer


def _enter(offers: list[_Offer], candidate: Candidate) -> None:
    """Enter all offers, or none if a name is taken."""
    for offer in sorted(offers, key=lambda offer: not offer.is_taken):
        offer.registry.add(offer.name, offer.target, candidate.distribution, candidate.name)
