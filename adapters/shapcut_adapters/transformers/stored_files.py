"""Safetensors files copied without reading their numbers: each tensor byte for byte, under a new name."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from io import BufferedIOBase
from pathlib import Path
from typing import Any

from shapcut.contracts import write_json_atomically

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
_CHUNK = 1 << 20
_ALIGNMENT = 8

Rename = Callable[[str], str | None]
"""From a tensor's old name to its new one; None drops it."""


@dataclass(frozen=True, slots=True)
class Header:
    """The header of a safetensors file.

    Attributes:
        tensors: dtype, shape and offsets of each tensor, in the order of the file.
        metadata: free text by key.
        start: position of the first tensor's bytes.
    """

    tensors: dict[str, dict[str, Any]]
    metadata: dict[str, str]
    start: int


def read_header(file: Path) -> Header:
    """The header of a file."""
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        content: dict[str, Any] = json.loads(stream.read(length))
    metadata = content.pop("__metadata__", None) or {}
    in_order = sorted(content.items(), key=lambda entry: entry[1]["data_offsets"])
    return Header(dict(in_order), metadata, 8 + length)


def weight_files(directory: Path) -> list[Path]:
    """The safetensors files of a checkpoint: the single one, and those that its index names."""
    index, names = directory / INDEX, {SINGLE}
    if index.is_file():
        names |= set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    return [directory / name for name in sorted(names) if (directory / name).is_file()]


def stored_names(directory: Path) -> list[str]:
    """The names of all tensors of a checkpoint."""
    return [name for file in weight_files(directory) for name in read_header(file).tensors]


def copy_weights(
    source: Path, directory: Path, rename: Rename, follow: Callable[[Mapping[str, str]], dict[str, str]]
) -> None:
    """Copy a checkpoint's tensors under their new names, file by file; memory use does not grow with them.

    Args:
        source: the checkpoint.
        directory: where files of the same names are written; one alone is called model.safetensors.
        rename: new names.
        follow: a file's metadata after the renaming.
    """
    sizes: dict[str, int] = {}
    places: dict[str, str] = {}
    for file in weight_files(source):
        written = _copy_file(file, directory / file.name, rename, follow)
        sizes |= written
        places |= dict.fromkeys(written, file.name)
    files = sorted(set(places.values()))
    if len(files) == 1:
        (directory / files[0]).rename(directory / SINGLE)
    else:
        index = {"metadata": {"total_size": sum(sizes.values())}, "weight_map": dict(sorted(places.items()))}
        write_json_atomically(directory / INDEX, index)


def _copy_file(
    source: Path, target: Path, rename: Rename, follow: Callable[[Mapping[str, str]], dict[str, str]]
) -> dict[str, int]:
    """Copy one file; the sizes of the copied tensors by their new names."""
    header = read_header(source)
    entries: dict[str, Any] = {}
    ranges: list[tuple[int, int]] = []
    position = 0
    for name, entry in header.tensors.items():
        if (new := rename(name)) is not None:
            first, end = entry["data_offsets"]
            entries[new] = {**entry, "data_offsets": [position, position + end - first]}
            ranges.append((header.start + first, end - first))
            position += end - first
    if entries:
        metadata = follow(header.metadata)
        with source.open("rb") as reading, target.open("wb") as writing:
            _write_header(writing, ({"__metadata__": metadata} if metadata else {}) | entries)
            for first, size in ranges:
                reading.seek(first)
                _copy_bytes(reading, writing, size)
    return {name: size for name, (_, size) in zip(entries, ranges, strict=True)}


def _write_header(stream: BufferedIOBase, content: Mapping[str, Any]) -> None:
    text = json.dumps(content, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    stream.write(len(text).to_bytes(8, "little") + text)


def _copy_bytes(reading: BufferedIOBase, writing: BufferedIOBase, size: int) -> None:
    while size > 0:
        part = reading.read(min(size, _CHUNK))
        if not part:
            raise OSError("the weights end before their last tensor")
        writing.write(part)
        size -= len(part)
