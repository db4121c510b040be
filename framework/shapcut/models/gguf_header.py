"""The header of a GGUF file: its metadata, its tensors, and where their bytes are.

The `gguf` package reads an array of metadata element by element, which takes it most of a minute for a
vocabulary of 262,144 tokens, and follows any length that a file states. This reader remembers spans.
"""

import mmap
import re
import struct
from dataclasses import dataclass, replace
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Any

from shapcut.models.gguf_parts import parts_of
from shapcut.support.errors import InputError
from shapcut.support.files import require_regular

GGUF_MAGIC = b"GGUF"

STRING, ARRAY, BOOL = 8, 9, 7
"""Value types of metadata that are treated by name."""

INTEGERS = frozenset({0, 1, 2, 3, 4, 5, 10, 11})
"""Value types of whole numbers."""

NUMBER_FORMATS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
"""How `struct` names each value type that is a number."""

_VERSIONS = (2, 3)
_BLOCK = re.compile(r"blk\.(0|[1-9]\d{0,8})\.(.+)", re.S)
_DEFAULT_ALIGNMENT = 32
_MOST_DIMENSIONS = 4
_LONGEST_NAME, _LONGEST_KEY = 127, 65535
"""In characters; llama.cpp itself takes tensor names of up to 63."""
SPLIT = "split."
"""What keys about the files of a split model start with."""

_FEW = 4096
"""Arrays of more numbers are left in the file."""


def is_gguf(file: Path) -> bool:
    """Whether a path is a file that begins as GGUF files do."""
    if not file.is_file():
        return False
    with file.open("rb") as opened:
        return opened.read(len(GGUF_MAGIC)) == GGUF_MAGIC


@dataclass(frozen=True, slots=True)
class MetadataEntry:
    """One key of the metadata.

    Attributes:
        name: the key.
        kind: the value type.
        element: the value type of the elements of an array, or None.
        count: the number of elements of an array, or None.
        start: where the entry starts in the file.
        value_at: where its value starts: its number, its string, or the first element of its array.
        end: where the entry ends.
        value: a number, a truth value or a string; of an array, its numbers if they are few, else None.
    """

    name: str
    kind: int
    element: int | None
    count: int | None
    start: int
    value_at: int
    end: int
    value: Any


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """One tensor.

    Attributes:
        name: its name.
        shape: its dimensions, the fastest varying first, as GGUF stores them.
        kind: number of its type in GGML.
        at: where its bytes start in the file.
        size: number of its bytes.
        part: which file of a split model holds it, counted from 0.
    """

    name: str
    shape: tuple[int, ...]
    kind: int
    at: int
    size: int
    part: int = 0

    @property
    def block(self) -> int | None:
        """The number of its block, or None if it is in none."""
        found = _BLOCK.fullmatch(self.name)
        return None if found is None else int(found[1])

    def renumbered(self, block: int) -> str:
        """Its name in another block."""
        return _BLOCK.sub(rf"blk.{block}.\2", self.name)


@dataclass(frozen=True)
class GGUFHeader:
    """The header of a GGUF file.

    Attributes:
        big_endian: the byte order of its numbers.
        version: of the format.
        alignment: each tensor starts at a multiple of it, counted from the start of the first.
        entries: the metadata, in order.
        tensors: the tensors, in order.
        files: the model's files; one, or the parts of a split model, of which the first has the metadata.
    """

    big_endian: bool
    version: int
    alignment: int
    entries: tuple[MetadataEntry, ...]
    tensors: tuple[TensorEntry, ...]
    files: tuple[Path, ...]

    @cached_property
    def by_name(self) -> dict[str, MetadataEntry]:
        """The metadata by key."""
        return {entry.name: entry for entry in self.entries}

    @property
    def architecture(self) -> str:
        """The architecture; empty if the file names none."""
        entry = self.by_name.get("general.architecture")
        return str(entry.value) if entry is not None and entry.kind == STRING else ""

    @property
    def block_count(self) -> int | None:
        """The number of blocks; None if the file does not tell."""
        return self.integer("block_count")

    def own(self, key: str) -> MetadataEntry | None:
        """The entry of a key of the architecture, such as ``block_count``."""
        return self.by_name.get(f"{self.architecture}.{key}")

    def integer(self, key: str) -> int | None:
        """A whole number of the architecture; None if there is none, or if it is an array.

        Raises:
            ValueError: if it is of another type.
        """
        entry = self.own(key)
        if entry is None or entry.kind == ARRAY:
            return None
        if entry.kind not in INTEGERS:
            raise ValueError(f"{entry.name!a} is no whole number")
        return int(entry.value)

    def split(self, key: str) -> int:
        """A number about the files of a split model; 0 if the file states none."""
        entry = self.by_name.get(SPLIT + key)
        return int(entry.value) if entry is not None and entry.kind in INTEGERS else 0

    def packed(self, kind: int, *numbers: float) -> bytes:
        """Numbers of one value type, as this file stores them."""
        return struct.pack(f"{'>' if self.big_endian else '<'}{len(numbers)}{NUMBER_FORMATS[kind]}", *numbers)

    def packed_text(self, text: str) -> bytes:
        """A string, as this file stores it."""
        content = text.encode("utf-8", "surrogateescape")
        return self.packed(10, len(content)) + content


def read_gguf_header(file: Path) -> GGUFHeader:
    """Read and check the header of a GGUF file, or those of all parts of the split model that it belongs to.

    Raises:
        InputError: if a length exceeds the file, names come twice, tensors overlap or lie outside the file,
            there are more blocks than tensors, or tensors of blocks that the header does not count; or if a
            part is missing or is another model's.
    """
    header = _read(file)
    if (count := header.split("count")) > 1:
        header = _joined(file, count)
    try:
        _check_blocks(header)
    except ValueError as error:
        raise _unreadable(file, error) from error
    return header


def _read(file: Path) -> GGUFHeader:
    """The header of one file."""
    try:
        with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return _Reader(content, file).header()
    except (OSError, ValueError) as error:
        raise _unreadable(file, error) from error


def _unreadable(file: Path, error: Exception) -> InputError:
    return InputError(f"cannot read the GGUF file {file}: {error}; is the copy complete?")


def _joined(file: Path, count: int) -> GGUFHeader:
    """The header of a split model: the metadata of its first part, the tensors of all."""
    files = parts_of(file)
    if len(files) != count:
        raise InputError(
            f"{file} is one of {count} parts of a model, but its name does not say so: name the parts "
            f"NAME-00001-of-{count:05}.gguf and so on, or join them with llama-gguf-split --merge"
        )
    if missing := [part for part in files if not part.exists()]:
        raise InputError(f"{file} is one of {count} parts of a model, but {missing[0]} is missing")
    for part in files:
        require_regular(part)
    headers = [_read(part) for part in files]
    for number, (part, header) in enumerate(zip(files, headers, strict=True)):
        if (header.split("count"), header.split("no")) != (count, number):
            raise InputError(f"{part} is not part {number + 1} of {count} of the model: take another copy")
    tensors = tuple(
        replace(tensor, part=number) for number, header in enumerate(headers) for tensor in header.tensors
    )
    first = headers[0]
    stated = first.split("tensors.count") or len(tensors)
    if stated != len(tensors) or any(header.big_endian != first.big_endian for header in headers):
        raise InputError(f"{file} and the other {count - 1} parts are of different models: take other copies")
    try:
        _require_unique("tensor", [tensor.name for tensor in tensors])
    except ValueError as error:
        raise _unreadable(file, error) from error
    return replace(first, tensors=tensors, files=files)


def _check_blocks(header: GGUFHeader) -> None:
    tensors, blocks = len(header.tensors), header.block_count
    for entry in header.entries:
        if entry.name.endswith(".block_count") and entry.kind in INTEGERS and entry.value > tensors:
            raise ValueError(f"it has {tensors} tensors, which are too few for {entry.value} blocks")
    for tensor in header.tensors:
        if not tensor.name.startswith("blk."):
            continue
        if tensor.block is None:
            raise ValueError(f"its tensor {tensor.name!a} has no number of a block")
        if blocks is not None and tensor.block >= blocks:
            raise ValueError(f"it has the tensor {tensor.name!a}, but its header counts {blocks} blocks")


class _Reader:
    """Reads the header before the weights, never beyond the end of the file.

    Raises:
        ValueError: with the reason.
    """

    def __init__(self, content: mmap.mmap, file: Path) -> None:
        self._content = content
        self._file = file
        self._big = content[4:6] == b"\0\0"
        self._order = ">" if self._big else "<"
        self._at = 4

    def header(self) -> GGUFHeader:
        """Read the whole header."""
        version = self._number(4)
        if version not in _VERSIONS:
            raise ValueError(f"version {version} of the format is not 2 or 3")
        n_tensors, n_entries = self._number(10), self._number(10)
        entries = tuple(self._entry() for _ in range(n_entries))
        _require_unique("key", [entry.name for entry in entries])
        alignment = _alignment(entries)
        found = [self._tensor() for _ in range(n_tensors)]
        _require_unique("tensor", [name for name, *_ in found])
        data_at = _padded(self._at, alignment)
        tensors = tuple(
            TensorEntry(name, shape, kind, data_at + offset, tensor_bytes(name, shape, kind))
            for name, shape, kind, offset in found
        )
        _require_apart(tensors, len(self._content), alignment, data_at)
        return GGUFHeader(self._big, version, alignment, entries, tensors, (self._file,))

    def _entry(self) -> MetadataEntry:
        start = self._at
        name, kind = self._name(_LONGEST_KEY), self._number(4)
        element: int | None = None
        count: int | None = None
        value: Any
        if kind == ARRAY:
            element, count = self._number(4), self._number(10)
            value_at = self._at
            value = self._elements(element, count)
        else:
            value_at = self._at
            value = self._text() if kind == STRING else self._value(kind)
        return MetadataEntry(name, kind, element, count, start, value_at, self._at, value)

    def _elements(self, kind: int, count: int) -> tuple[Any, ...] | None:
        """Pass an array; return its numbers if they are few."""
        if kind != STRING:
            found = self._passed(count * self._width(kind))
            form = f"{self._order}{count}{NUMBER_FORMATS[kind]}"
            return struct.unpack(form, found) if count <= _FEW else None
        for _ in range(count):
            self._passed(self._number(10))
        return None

    def _tensor(self) -> tuple[str, tuple[int, ...], int, int]:
        """Name, shape, type and offset of the next tensor."""
        name, dimensions = self._name(_LONGEST_NAME), self._number(4)
        if dimensions > _MOST_DIMENSIONS:
            raise ValueError(f"its tensor {name!a} has {dimensions} dimensions")
        shape = tuple(self._number(10) for _ in range(dimensions))
        return name, shape, self._number(4), self._number(10)

    def _name(self, longest: int) -> str:
        name = self._text()
        if len(name) > longest:
            raise ValueError(f"a name before {self._at} has {len(name)} characters, more than {longest}")
        return name

    def _text(self) -> str:
        return self._passed(self._number(10)).decode("utf-8", "surrogateescape")

    def _number(self, kind: int) -> int:
        return int(self._value(kind))

    def _value(self, kind: int) -> Any:
        found = self._passed(self._width(kind))
        return struct.unpack(self._order + NUMBER_FORMATS[kind], found)[0]

    def _width(self, kind: int) -> int:
        if kind not in NUMBER_FORMATS:
            raise ValueError(f"{kind} before {self._at} is not a value type")
        return struct.calcsize("<" + NUMBER_FORMATS[kind])

    def _passed(self, length: int) -> bytes:
        if length > len(self._content) - self._at:
            raise ValueError(f"{length} bytes at {self._at} are more than it has")
        self._at += length
        return self._content[self._at - length : self._at]


def _alignment(entries: tuple[MetadataEntry, ...]) -> int:
    stated = next((entry for entry in entries if entry.name == "general.alignment"), None)
    if stated is None:
        return _DEFAULT_ALIGNMENT
    value = stated.value
    if stated.kind not in INTEGERS or value <= 0 or value & (value - 1):
        raise ValueError(f"general.alignment is {value!a}, which is no power of two")
    return int(value)


def tensor_bytes(name: str, shape: tuple[int, ...], kind: int) -> int:
    """The size of a tensor.

    Raises:
        ValueError: if its type is not known, or does not divide its rows.
    """
    from gguf import GGML_QUANT_SIZES  # noqa: PLC0415 - only for GGUF files

    known = {int(number): sizes for number, sizes in GGML_QUANT_SIZES.items()}
    if kind not in known:
        raise ValueError(f"its tensor {name!a} has the type {kind}, which the gguf package does not know")
    group, size = known[kind]
    if not shape or shape[0] % group:
        raise ValueError(f"its tensor {name!a} has the shape {shape}, which its type does not divide")
    return prod(shape) // group * size


def _require_unique(what: str, names: list[str]) -> None:
    seen = set[str]()
    for name in names:
        if name in seen:
            raise ValueError(f"its {what} {name!a} comes twice")
        seen.add(name)


def _require_apart(tensors: tuple[TensorEntry, ...], length: int, alignment: int, data_at: int) -> None:
    """Refuse tensors that overlap, lie outside the file or are not aligned."""
    end = data_at
    for tensor in sorted(tensors, key=lambda tensor: tensor.at):
        if tensor.at + tensor.size > length:
            raise ValueError(f"its tensor {tensor.name!a} ends at {tensor.at + tensor.size}, after its end")
        if tensor.at < end:
            raise ValueError(f"its tensor {tensor.name!a} starts inside another one")
        if (tensor.at - data_at) % alignment:
            raise ValueError(f"its tensor {tensor.name!a} does not start at a multiple of {alignment}")
        end = tensor.at + tensor.size


def _padded(position: int, alignment: int) -> int:
    return -(-position // alignment) * alignment
