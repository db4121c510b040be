"""What a checkpoint says of itself, checked before a library follows it: names of files, and its numbers."""

import json
import mmap
import struct
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import torch
from torch import nn

from shapcut.errors import InputError

_GGUF_WIDTHS = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
"""Bytes of a number of each type that GGUF has."""
_GGUF_STRING, _GGUF_ARRAY = 8, 9

_CHECKED = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def is_plain_name(name: object) -> bool:
    """Whether it names a file in the very directory that it is looked up in, on any system."""
    if not isinstance(name, str) or name in {"", ".", ".."} or "\0" in name:
        return False
    return PurePosixPath(name).name == name and PureWindowsPath(name).name == name


def require_plain_shards(index: Path) -> None:
    """Check the index of a checkpoint in several files.

    Raises:
        InputError: if it is damaged, or names a file outside its own directory, or one that is missing.
    """
    try:
        names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(
            f"{index} is damaged: it has no weight_map from weights to files ({type(error).__name__})"
        ) from error
    for name in sorted(names, key=repr):
        if not is_plain_name(name):
            raise InputError(f"{index} names the weight file {name!r}, which is outside its directory")


def require_no_adapter(directory: Path) -> None:
    """Refuse a checkpoint with weights of peft beside it: they would be loaded into the model.

    Raises:
        InputError: saying what to do.
    """
    if (directory / "adapter_config.json").is_file():
        raise InputError(
            f"{directory} has an adapter_config.json: merge the adapter into the weights "
            "(peft's merge_and_unload) and save them, or remove the file"
        )


def require_plain_templates(tokenizer: Any, source: str) -> None:
    """Refuse chat templates whose names would be written outside the checkpoint's directory.

    Raises:
        InputError: with the name.
    """
    templates = getattr(tokenizer, "chat_template", None)
    for name in templates if isinstance(templates, dict) else ():
        if not is_plain_name(name):
            raise InputError(
                f"the tokenizer of {source} has a chat template with the name {name!r}, which is no file "
                "name; rename it"
            )


def require_sound_gguf(file: Path) -> None:
    """Walk through what a GGUF file says of itself: libraries would follow a damaged length without end.

    Raises:
        InputError: if something in it is longer than the file, or there are more blocks than tensors.
    """
    try:
        with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as content:
            _GGUFHeader(content).check()
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read the GGUF file {file}: {error}; is the copy complete?") from error


class _GGUFHeader:
    """Reads what comes before the weights, never beyond the end.

    Raises:
        ValueError: saying what is wrong.
    """

    def __init__(self, content: mmap.mmap) -> None:
        self._content = content
        self._big = content[4:6] == b"\0\0"
        self._at = 8

    def check(self) -> None:
        """Walk through all of it."""
        tensors, pairs = self._number("Q"), self._number("Q")
        for _ in range(pairs):
            name, kind = self._string(), self._number("I")
            found = self._value(kind)
            if name.endswith(b".block_count"):
                blocks = int.from_bytes(found, "big" if self._big else "little")
                if blocks > tensors:
                    raise ValueError(f"it has {tensors} tensors, which are too few for {blocks} blocks")

    def _number(self, form: str) -> int:
        (found,) = struct.unpack((">" if self._big else "<") + form, self._passed(struct.calcsize(form)))
        return int(found)

    def _passed(self, length: int) -> bytes:
        if length > len(self._content) - self._at:
            raise ValueError(f"{length} bytes at {self._at} are more than it has")
        self._at += length
        return self._content[self._at - length : self._at]

    def _string(self) -> bytes:
        return self._passed(self._number("Q"))

    def _numbers(self, kind: int, count: int) -> bytes:
        if kind not in _GGUF_WIDTHS:
            raise ValueError(f"{kind} before {self._at} is no type of a value")
        return self._passed(count * _GGUF_WIDTHS[kind])

    def _value(self, kind: int) -> bytes:
        if kind == _GGUF_STRING:
            return self._string()
        if kind != _GGUF_ARRAY:
            return self._numbers(kind, 1)
        kind, count = self._number("I"), self._number("Q")
        if kind != _GGUF_STRING:
            return self._numbers(kind, count)
        for _ in range(count):
            self._string()
        return b""


def require_finite_weights(model: nn.Module, source: str) -> None:
    """Refuse weights that are not numbers: one of them is enough to make every value NaN.

    Raises:
        InputError: with the first weight that has such an element.
    """
    for name, weight in model.named_parameters():
        if weight.is_meta or weight.dtype not in _CHECKED or hasattr(weight, "__tensor_flatten__"):
            continue
        if weight.numel() and not all(map(torch.isfinite, torch.aminmax(weight.detach()))):
            raise InputError(
                f"the weight {name} of {source} has NaN or infinite elements: the file is damaged, or its "
                "training failed; take another copy of the checkpoint"
            )
