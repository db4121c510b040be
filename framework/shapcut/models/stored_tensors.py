"""The tensors in a checkpoint's safetensors files, read from the headers."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shapcut.models.untrusted import is_plain_name, require_plain_shards
from shapcut.support.errors import InputError
from shapcut.support.plain_json import parse_json, read_json

_LARGEST_HEADER = 100_000_000
"""Largest header in bytes, as in the safetensors library."""

_UNPACKED = ("F64", "F32", "F16", "BF16")
"""Number formats of plain weights."""

_PACKED = ("F8_", "F4", "F6_", "I8", "U8", "I16", "U16", "I32", "U32", "I64", "U64")
"""Prefixes of the number formats of packed weights."""

WEIGHT_SUFFIXES = (
    ".safetensors",
    ".bin",
    ".pt",
    ".pth",
    ".ckpt",
    ".h5",
    ".msgpack",
    ".gguf",
    ".onnx",
    ".ot",
    ".npz",
)
"""Suffixes of files of weights, of transformers and of others."""

_COUNTERS = ("position_ids", "num_batches_tracked")
"""Suffixes of the names of integer buffers that are not weights."""


@dataclass(frozen=True, slots=True)
class Header:
    """The header of a safetensors file.

    Attributes:
        tensors: dtype, shape and offsets of each tensor by its name, in the order of the file.
        metadata: free text by key.
        start: position of the first tensor's bytes.
    """

    tensors: dict[str, dict[str, Any]]
    metadata: dict[str, str]
    start: int


def weight_files(directory: Path) -> list[Path]:
    """The safetensors files that transformers reads: the single one, and those that the index names.

    Raises:
        InputError: if the index names one outside the directory.
    """
    return [directory / name for name in sorted(_files(directory))]


def stored_tensors(directory: Path) -> dict[str, str]:
    """The number format of each tensor by its name; empty if there are no safetensors files.

    Raises:
        InputError: if a file is damaged or the index names one outside the directory.
    """
    headers = map(read_header, weight_files(directory))
    return {name: entry["dtype"] for header in headers for name, entry in header.tensors.items()}


def other_weight_files(directory: Path) -> list[str]:
    """Names of files of weights beside the safetensors files that are read; empty if none are.

    Raises:
        InputError: as `stored_tensors`.
    """
    read = _files(directory)
    names = [file.name for file in directory.iterdir() if file.name.lower().endswith(WEIGHT_SUFFIXES)]
    return sorted(set(names) - read) if read else []


def _files(directory: Path) -> set[str]:
    """Names of the safetensors files that transformers reads."""
    index, single = directory / "model.safetensors.index.json", directory / "model.safetensors"
    names = {single.name} if single.is_file() else set()
    if index.is_file():
        require_plain_shards(index)
        named = read_json(index)["weight_map"].values()
        names |= {name for name in named if is_plain_name(name)}
    return names


def read_header(file: Path) -> Header:
    """The header of a safetensors file.

    Raises:
        InputError: if it is damaged.
    """
    try:
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if length > min(_LARGEST_HEADER, file.stat().st_size):
                raise ValueError(f"a header of {length} bytes is longer than the file")  # noqa: TRY301
            content = parse_json(stream.read(length))
        metadata = content.pop("__metadata__", None) or {}
        in_order = sorted(content.items(), key=lambda each: each[1]["data_offsets"])
        entries = {name: {**entry, "dtype": str(entry["dtype"])} for name, entry in in_order}
        return Header(entries, metadata, 8 + length)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"cannot read the weights in {file}: {error}; is the copy complete?") from error


def require_plain_numbers(tensors: Mapping[str, str], directory: Path) -> None:
    """Refuse packed weights in a checkpoint whose config has no quantization.

    Such a checkpoint would load with its packed codes read as numbers.

    Raises:
        InputError: with the name of the first packed weight.
    """
    packed = [
        name
        for name, kind in tensors.items()
        if kind not in _UNPACKED and kind.startswith(_PACKED) and not name.endswith(_COUNTERS)
    ]
    if packed:
        raise InputError(
            f"{directory} holds {len(packed)} quantized tensors ({packed[0]}: {tensors[packed[0]]}), but its "
            "config.json has no quantization_config to unpack them by; take a checkpoint in full precision, "
            "or one that transformers can load"
        )


def require_depth(tensors: Mapping[str, str], depth: object, directory: Path) -> None:
    """Refuse a config with more layers than its files have tensors, before the model is built.

    Raises:
        InputError: with both numbers.
    """
    if tensors and isinstance(depth, int) and depth > len(tensors):
        raise InputError(
            f"{directory}: config.json promises {depth} layers, but the files hold {len(tensors)} tensors; "
            "take another copy"
        )
