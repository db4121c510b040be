"""The contract for checkpoint formats other than transformers' own."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Protocol

import torch
from torch import nn

from shapcut.support.errors import InputError


class Tokenizer(Protocol):
    """The tokenizer interface that shapcut needs; every transformers tokenizer has it.

    A tokenizer that prepends a BOS token also has its id as ``bos_token_id``.
    """

    def __call__(self, text: str, *, add_special_tokens: bool = True) -> Mapping[str, list[int]]:
        """Tokenize a text; the ids are under ``input_ids``."""

    def save_pretrained(self, save_directory: Path) -> object:
        """Write the files that load it again from a checkpoint's directory."""


class CheckpointFormat(ABC):
    """A checkpoint format other than transformers' own.

    Formats are asked before transformers. They open pickles only with ``torch.load(weights_only=True)``.

    Attributes:
        name: under which the format is registered.
    """

    name: ClassVar[str]

    @abstractmethod
    def claims(self, path: Path) -> bool:
        """Whether an existing path is of this format, judged by names and at most a small JSON file."""

    @abstractmethod
    def check(self, path: Path) -> None:
        """Refuse a path that cannot be loaded, before any weight is read.

        Raises:
            InputError: if files are missing or inconsistent, or a package must be installed.
        """

    @abstractmethod
    def load(
        self, path: Path, *, device: torch.device, dtype: torch.dtype | None
    ) -> tuple[nn.Module, Tokenizer]:
        """Load the model, in evaluation mode, and its tokenizer.

        Args:
            path: a file or directory that `claims` and `check` accepted.
            device: for the weights.
            dtype: of the weights; None keeps the checkpoint's own.

        Raises:
            InputError: if it cannot be loaded.
        """

    def depth(self, path: Path) -> int | None:  # noqa: ARG002 - for formats that know it
        """The number of layers, or None if only the weights tell."""
        return None


def claiming_format(path: Path, formats: Sequence[CheckpointFormat]) -> CheckpointFormat | None:
    """The format that claims an existing path, or None.

    Raises:
        InputError: if several claim it, with their names.
    """
    claiming = [candidate for candidate in formats if candidate.claims(path)]
    if len(claiming) > 1:
        names = ", ".join(sorted(candidate.name for candidate in claiming))
        raise InputError(
            f"several formats claim {path}: {names}; uninstall the plugins of all but one of them"
        )
    return claiming[0] if claiming else None


def asked_formats(formats: Sequence[CheckpointFormat]) -> str:
    """The names of formats, for a message about a path that none of them claims."""
    return ", ".join(sorted(candidate.name for candidate in formats)) or "none is installed"
