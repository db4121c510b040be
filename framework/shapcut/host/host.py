"""The plugin host: admitted plugins and their registrations.

There is no module-level state; every `build_host` searches the installed distributions anew.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from traceback import walk_tb
from typing import TYPE_CHECKING, Any

import pluggy

from shapcut.host import hookspecs
from shapcut.host.admission import Candidate, PluginInfo, admit
from shapcut.host.entry import Entry, cause
from shapcut.host.hookspecs import hookimpl
from shapcut.host.registry import Registry
from shapcut.support.errors import ShapcutError, UnsupportedModelError

if TYPE_CHECKING:
    from torch import nn

    from shapcut.estimators.base import Estimator
    from shapcut.estimators.sampling import Sampler
    from shapcut.models.adapter import Adapter
    from shapcut.models.checkpoint_format import CheckpointFormat
    from shapcut.selection.base import Selector
    from shapcut.serving.engine import Engine
    from shapcut.steps.step import PostProcessor
    from shapcut.valuation.executor import Executor
    from shapcut.valuation.utilities import TokenizedUtility, Utility

GROUP = "shapcut"
"""The entry-point group, which is also the name of shapcut's own distribution."""

KINDS = {
    "adapters": "adapter",
    "formats": "checkpoint format",
    "utilities": "utility",
    "samplers": "sampler",
    "estimators": "estimator",
    "selectors": "selector",
    "postprocessors": "post-pruning step",
    "executors": "executor",
    "engines": "inference engine",
}
"""Kinds of registration: the attribute of `Host` (and suffix of the hook's name), and its singular."""


@dataclass(frozen=True, slots=True)
class BrokenPlugin:
    """A skipped plugin, with the reason on one line."""

    name: str
    distribution: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """The admitted plugins and their registrations.

    Attributes:
        manager: calls the hooks of `shapcut.host.hookspecs`.
        plugins: the admitted plugins, in order of admission.
        broken: the skipped plugins.
    """

    manager: pluggy.PluginManager
    adapters: "Registry[Adapter]"
    formats: "Registry[CheckpointFormat]"
    utilities: "Registry[Utility | TokenizedUtility]"
    samplers: "Registry[Sampler]"
    estimators: "Registry[Estimator]"
    selectors: "Registry[Selector]"
    postprocessors: "Registry[PostProcessor]"
    executors: "Registry[Executor]"
    engines: "Registry[Engine]"
    plugins: tuple[PluginInfo, ...]
    broken: tuple[BrokenPlugin, ...]


def build_host(*, skip_broken: bool = False, extra: Sequence[object] = ()) -> Host:
    """Admit ``extra`` plugins, then installed ones: bundled plugins first, the others by name.

    Args:
        skip_broken: skip an unusable installed plugin and list it in `Host.broken`.
        extra: plugins that are not installed, as objects; an unusable one is always an error.

    Raises:
        ShapcutError: if a plugin cannot be imported, implements an unknown hook, or registers a taken name;
            the message names the plugin and its distribution.
    """
    manager = pluggy.PluginManager(GROUP)
    manager.add_hookspecs(hookspecs)
    manager.add_hookcall_monitoring(lambda *_: None, _name_failure)
    manager.register(MatchingAdapter())
    registries: dict[str, Registry[Any]] = {kind: Registry(word) for kind, word in KINDS.items()}
    plugins = [admit(_handed_over(plugin), manager, registries) for plugin in extra]
    broken = []
    for candidate in _installed_candidates():
        try:
            plugins.append(admit(candidate, manager, registries))
        except ShapcutError as error:
            if not skip_broken:
                raise ShapcutError(f"{error}; use --skip-broken-plugins to continue without it") from error
            broken.append(BrokenPlugin(candidate.name, candidate.distribution, str(error)))
    return Host(manager=manager, plugins=tuple(plugins), broken=tuple(broken), **registries)


def _name_failure(
    outcome: pluggy.Result[Any], hook: str, implementations: "Sequence[pluggy.HookImpl]", _: object
) -> None:
    """Let an unforeseen error in a hook name the hook and the plugin."""
    error = outcome.exception
    if error is None or isinstance(error, ShapcutError) or not isinstance(error, (Exception, SystemExit)):
        return
    codes = {frame.f_code for frame, _ in walk_tb(error.__traceback__)}
    failing = [each for each in implementations if getattr(each.function, "__code__", None) in codes]
    names = ", ".join(each.plugin_name for each in failing) or "unknown"
    named = ShapcutError(f"plugin {names}: its {hook} failed: {cause(error)}")
    named.__cause__ = error
    outcome.force_exception(named)


def select_adapter(host: Host, model: "nn.Module") -> "Adapter":
    """Select the adapter for a loaded model by the hook ``shapcut_select_adapter``.

    Raises:
        UnsupportedModelError: if no adapter matches the model, or several do.
        ShapcutError: if an adapter was written for another version of the contract.
    """
    adapters = []
    for entry in host.adapters:
        adapter = host.adapters.create(entry.name)
        require_contract(adapter, entry)
        adapters.append(adapter)
    chosen: Adapter | None = host.manager.hook.shapcut_select_adapter(model=model, adapters=adapters)
    if chosen is None:
        asked = ", ".join(entry.name for entry in host.adapters) or "none, as no adapter is installed"
        text = getattr(getattr(model, "config", None), "text_config", None)
        hint = "" if text is None else "; --text-only prunes its language model alone"
        raise UnsupportedModelError(f"no adapter matches {describe(model)}; asked: {asked}{hint}")
    return chosen


def checkpoint_formats(host: Host) -> "tuple[CheckpointFormat, ...]":
    """Create all registered checkpoint formats."""
    return tuple(host.formats.create(entry.name) for entry in host.formats)


def _handed_over(plugin: object) -> Candidate:
    name = getattr(plugin, "__name__", type(plugin).__name__)
    return Candidate(name, GROUP, metadata.version(GROUP), lambda: plugin)


def _installed_candidates() -> list[Candidate]:
    facts = cache(_name_and_version)  # a distribution parses its metadata each time it is asked
    candidates = [
        Candidate(point.name, *facts(point.dist), point.load) for point in metadata.entry_points(group=GROUP)
    ]
    return sorted(candidates, key=lambda one: (one.distribution != GROUP, one.distribution, one.name))


def _name_and_version(distribution: metadata.Distribution | None) -> tuple[str, str]:
    if distribution is None:
        return "unknown", "unknown"
    known = distribution.metadata
    return known["Name"], known["Version"]


class MatchingAdapter:
    """The core's plugin, called last by ``shapcut_select_adapter``."""

    @hookimpl(trylast=True)
    def shapcut_select_adapter(self, model: "nn.Module", adapters: "Sequence[Adapter]") -> "Adapter | None":
        """The adapter that matches, or None.

        Raises:
            UnsupportedModelError: if several match.
        """
        matching = [adapter for adapter in adapters if adapter.matches(model)]
        if len(matching) > 1:
            names = ", ".join(sorted(adapter.name for adapter in matching))
            raise UnsupportedModelError(
                f"several adapters match {describe(model)}: {names}; "
                "uninstall all but one, or install a plugin that decides in shapcut_select_adapter"
            )
        return matching[0] if matching else None


def require_contract(adapter: "Adapter", entry: "Entry[Adapter]") -> None:
    """Refuse an adapter that was written for another version of the contract.

    Raises:
        ShapcutError: naming the adapter, its distribution and both versions.
    """
    from shapcut.models.adapter import SUPPORTED_CONTRACTS  # noqa: PLC0415 - imports torch

    if adapter.contract_version not in SUPPORTED_CONTRACTS:
        wanted = " or ".join(map(str, SUPPORTED_CONTRACTS))
        raise ShapcutError(
            f"adapter {entry.name!r} of {entry.distribution} was written for version "
            f"{adapter.contract_version} of the adapter contract, not for {wanted}; "
            f"install a matching release of {entry.distribution}, or uninstall it"
        )


def describe(model: "nn.Module") -> str:
    """A model's class and, if it has a config, its ``model_type``, for messages."""
    model_type = getattr(getattr(model, "config", None), "model_type", None)
    return type(model).__name__ + (f" (model_type {model_type!r})" if model_type else "")
