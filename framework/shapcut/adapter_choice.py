"""The core's choice among the installed adapters: the only one that matches the model."""

from collections.abc import Sequence

from torch import nn

from shapcut.adapter import CONTRACT_VERSION, Adapter
from shapcut.errors import ShapcutError, UnsupportedModelError
from shapcut.hookspecs import hookimpl
from shapcut.registry import Entry


class MatchingAdapter:
    """A plugin that answers ``shapcut_select_adapter`` after all others."""

    @hookimpl(trylast=True)
    def shapcut_select_adapter(self, model: nn.Module, adapters: Sequence[Adapter]) -> Adapter | None:
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


def require_contract(adapter: Adapter, entry: Entry[Adapter]) -> None:
    """Refuse an adapter that was written for another version of the contract.

    Raises:
        ShapcutError: naming the adapter, its distribution and both versions.
    """
    if adapter.contract_version != CONTRACT_VERSION:
        raise ShapcutError(
            f"adapter {entry.name!r} of {entry.distribution} was written for version "
            f"{adapter.contract_version} of the adapter contract, not for {CONTRACT_VERSION}; "
            f"install a matching release of {entry.distribution}, or uninstall it"
        )


def describe(model: nn.Module) -> str:
    """A model's class and, if it has a config, its ``model_type``, for messages."""
    model_type = getattr(getattr(model, "config", None), "model_type", None)
    return type(model).__name__ + (f" (model_type {model_type!r})" if model_type else "")
