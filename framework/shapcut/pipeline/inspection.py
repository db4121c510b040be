"""What can be removed from a model, with its weights or from its config alone."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from shapcut.game.coalitions import Player
from shapcut.game.granularity import Granularity
from shapcut.host.host import Host, select_adapter
from shapcut.host.open_model import find_model, open_model
from shapcut.models.adapter import Adapter, FamilySupport
from shapcut.models.loading import model_without_weights
from shapcut.models.source import ModelSource, read_config
from shapcut.support.errors import InputError, ShapcutError
from shapcut.support.html_table import html_table
from shapcut.support.quiet import one_line, quiet_libraries
from shapcut.support.suggest import did_you_mean

CONFIG = "config.json"
_WEIGHTS = ("*.safetensors", "*.bin", "*.pth", "*.pt", "*.gguf", "*.safetensors.index.json")


@dataclass(frozen=True, slots=True)
class Inspection:
    """What can be removed from a model.

    Attributes:
        source: the model's name.
        model_class: its class.
        adapter: name of its adapter.
        parameters: number of its parameters.
        granularity: what a player is here.
        granularities: what a player can be.
        players: the players; one that cannot go has a reason.
        fast_evaluation: whether coalitions share their beginnings; None if only the weights tell.
    """

    source: str
    model_class: str
    adapter: str
    parameters: int
    granularity: Granularity
    granularities: tuple[str, ...]
    players: tuple[Player, ...]
    fast_evaluation: bool | None

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "model": self.source,
            "class": self.model_class,
            "adapter": self.adapter,
            "parameters": self.parameters,
            "fast_evaluation": self.fast_evaluation,
            "from_config": self.fast_evaluation is None,
            "granularities": self.granularities,
            "players": [{name: getattr(each, name) for name in each.__slots__} for each in self.players],
        }

    def _repr_html_(self) -> str:
        caption = f"{self.source}: {self.model_class}, {self.parameters:,} parameters, adapter {self.adapter}"
        rows = [
            (each.index, each.name, f"{each.parameters:,}", "yes" if each.removable else f"no: {each.reason}")
            for each in self.players
        ]
        return html_table(caption, ("player", "module", "parameters", "removable"), rows)


def inspect_model(
    model: nn.Module, adapter: Adapter, source: str, granularity: Granularity, *, weights: bool = True
) -> Inspection:
    """Inspect a model.

    Args:
        model: canonicalised by its adapter.
        adapter: its adapter.
        source: its name.
        granularity: what a player is.
        weights: whether it has weights, so that a forward pass says something.
    """
    return Inspection(
        source=source,
        model_class=type(model).__name__,
        adapter=adapter.name,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        granularity=granularity,
        granularities=tuple(adapter.granularities(model)),
        players=tuple(adapter.players(model, granularity)),
        fast_evaluation=adapter.stack(model, granularity) is not None if weights else None,
    )


def inspect_named(host: Host, name: str, granularity: Granularity, **where: Any) -> Inspection:
    """Inspect a model by name; a directory without weights, or a ``config.json``, by its config alone.

    Args:
        host: the plugins.
        name: of the model, or the path of its config.
        granularity: what a player is.
        where: options of `shapcut.host.open_model.find_model`.

    Raises:
        InputError: if there is no such model, or its config describes none.
    """
    path = Path(name)
    is_config = path.name == CONFIG and path.is_file()
    source = find_model(host, str(path.parent) if is_config else name, **where)
    if is_config or _lacks_weights(path):
        model = described_model(source)
        adapter = select_adapter(host, model)
        return inspect_model(adapter.canonicalise(model), adapter, name, granularity, weights=False)
    opened = open_model(host, source)
    return inspect_model(opened.model, opened.adapter, opened.source_name, granularity)


def known_families(host: Host) -> list[tuple[str, FamilySupport]]:
    """Every family that an installed adapter tells of, with the adapter's name."""
    return [
        (entry.name, family)
        for entry in host.adapters
        for family in host.adapters.create(entry.name).families()
    ]


def families_named(known: Sequence[tuple[str, FamilySupport]], name: str) -> list[tuple[str, FamilySupport]]:
    """The families of this model type or class; else those whose type contains the name.

    Raises:
        InputError: if there is none.
    """
    wanted = _plain(name)
    exact = [each for each in known if wanted in {_plain(each[1].name), _plain(each[1].model_class)}]
    found = exact or [each for each in known if wanted and wanted in _plain(each[1].name)]
    if not found:
        hint = did_you_mean(name, [family.name for _, family in known])
        raise InputError(
            f"no adapter knows a family {name!r}; {hint}; config.json names a model's model_type"
        )
    return found


def _plain(name: str) -> str:
    return "".join(letter for letter in name.lower() if letter.isalnum())


def described_model(source: ModelSource, dtype: torch.dtype | None = None) -> nn.Module:
    """The model that a config describes, without weights.

    Raises:
        InputError: if it describes none.
    """
    config = read_config(source.location, source.trust_remote_code)
    try:
        with quiet_libraries():
            return model_without_weights(config, source.trust_remote_code, dtype).eval()
    except ShapcutError:
        raise
    except Exception as error:
        raise InputError(
            f"the config of {source.location.source} describes no model: {one_line(error)}"
        ) from error


def _lacks_weights(path: Path) -> bool:
    """Whether a directory has a config and no weights of any format."""
    if not (path / CONFIG).is_file():
        return False
    return not any(file for pattern in _WEIGHTS for file in path.glob(pattern))
