"""A model opened: found, loaded, its adapter chosen."""

from dataclasses import dataclass
from typing import Any

from torch import nn

from shapcut.host.host import Host, checkpoint_formats, select_adapter
from shapcut.models.adapter import Adapter
from shapcut.models.loading import load
from shapcut.models.source import ModelSource, Offload, locate


@dataclass(frozen=True, eq=False, slots=True)
class OpenModel:
    """A loaded model and what belongs to it.

    Attributes:
        model: canonicalised by its adapter, in evaluation mode, without gradients.
        tokenizer: the model's own.
        adapter: the model's adapter.
        source: where it was found and how it was loaded.
    """

    model: nn.Module
    tokenizer: Any
    adapter: Adapter
    source: ModelSource

    @property
    def source_name(self) -> str:
        """What the user named."""
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
    """Find a model by what the user named; no weight is read.

    Args:
        host: whose formats are asked before transformers.
        name: a local directory, hub id, ``.gguf`` file, ``demo:NAME``, or a path that a format claims.
        device: see `ModelSource`.
        trust_remote_code: see `ModelSource`.
        offload: see `ModelSource`.
        offline: whether nothing may be fetched.
        revision: branch, tag or commit of a hub id.
        text_only: whether only the language model inside a multimodal model is loaded.

    Raises:
        InputError: if there is no such model, or several formats claim it.
    """
    formats = checkpoint_formats(host)
    location = locate(name, formats, offline=offline, revision=revision, text_only=text_only)
    return ModelSource(location, device, "auto", trust_remote_code, offload)


def open_model(host: Host, source: ModelSource) -> OpenModel:
    """Load a model that was found, and choose its adapter.

    Raises:
        InputError: if it cannot be loaded.
        UnsupportedModelError: if no adapter matches it, or several do.
    """
    model, tokenizer = load(source)
    adapter = select_adapter(host, model)
    return OpenModel(adapter.canonicalise(model), tokenizer, adapter, source)
