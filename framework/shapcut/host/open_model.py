"""Find a model, load it and select its adapter."""

from dataclasses import dataclass
from typing import Any

from torch import nn

from shapcut.host.host import Host, checkpoint_formats, select_adapter
from shapcut.models.adapter import Adapter
from shapcut.models.loading import load
from shapcut.models.location import locate
from shapcut.models.placement import Offload
from shapcut.models.source import ModelSource


@dataclass(frozen=True, eq=False, slots=True)
class OpenModel:
    """A loaded model with its tokenizer and adapter.

    Attributes:
        model: the model, canonicalised by its adapter, in evaluation mode, without gradients.
        tokenizer: the model's tokenizer.
        adapter: the model's adapter.
        source: the source that it was loaded from.
    """

    model: nn.Module
    tokenizer: Any
    adapter: Adapter
    source: ModelSource

    @property
    def source_name(self) -> str:
        """The model's name as the user wrote it."""
        return self.source.location.source


def find_model(
    host: Host,
    name: str,
    *,
    device: str = "auto",
    trust_remote_code: bool = False,
    offload: Offload = "off",
    offline: bool = False,
    revision: str | None = None,
    text_only: bool = False,
) -> ModelSource:
    """Find a model by name, without reading weights.

    Args:
        host: the plugins, whose formats are tried before transformers.
        name: a local directory, hub id, ``.gguf`` file, ``demo:NAME``, or a path that a format claims.
        device: see `ModelSource`.
        trust_remote_code: see `ModelSource`.
        offload: see `ModelSource`.
        offline: whether downloads are forbidden.
        revision: branch, tag or commit of a hub id.
        text_only: whether to load only the language model inside a multimodal model.

    Raises:
        InputError: if there is no such model, or several formats claim it.
    """
    formats = checkpoint_formats(host)
    location = locate(name, formats, offline=offline, revision=revision, text_only=text_only)
    return ModelSource(location, device, "auto", trust_remote_code, offload)


def open_model(host: Host, source: ModelSource) -> OpenModel:
    """Load a model and select its adapter.

    Raises:
        InputError: if the model cannot be loaded.
        UnsupportedModelError: if no adapter matches, or several do.
    """
    model, tokenizer = load(source)
    adapter = select_adapter(host, model)
    return OpenModel(adapter.canonicalise(model), tokenizer, adapter, source)
