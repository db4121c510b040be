"""How shapcut recognizes and reads the model's own checkpoints."""

import json
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import ClassVar

import torch

from shapcut.contracts import CheckpointFormat, InputError
from shapcut_toy.model import CONFIG, WEIGHTS, ToyConfig, ToyModel, load


class ByteTokenizer:
    """One token a byte; nothing has to be stored."""

    def __call__(self, text: str, *, add_special_tokens: bool = True) -> Mapping[str, list[int]]:
        return {"input_ids": list(text.encode())}

    def save_pretrained(self, save_directory: Path) -> None:
        """The model reads bytes whatever is in the directory."""


class ToyCheckpoint(CheckpointFormat):
    """Directories with a ``toy.json``."""

    name: ClassVar[str] = "toy"

    def claims(self, path: Path) -> bool:
        return (path / CONFIG).is_file()

    def check(self, path: Path) -> None:
        _read_config(path)
        if not (path / WEIGHTS).is_file():
            raise InputError(f"{path} has a {CONFIG} but no {WEIGHTS}; copy that file too")

    def depth(self, path: Path) -> int:
        return _read_config(path).layers

    def load(
        self, path: Path, *, device: torch.device, dtype: torch.dtype | None
    ) -> tuple[ToyModel, ByteTokenizer]:
        return load(path).to(device=device, dtype=dtype), ByteTokenizer()


def _read_config(path: Path) -> ToyConfig:
    names = {field.name for field in fields(ToyConfig)}
    try:
        content = json.loads((path / CONFIG).read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path / CONFIG} is not JSON: {error}") from error
    if not isinstance(content, dict) or content.keys() != names:
        raise InputError(f"{path / CONFIG} must hold exactly {', '.join(sorted(names))}")
    return ToyConfig(**content)
