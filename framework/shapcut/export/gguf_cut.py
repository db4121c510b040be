"""Cut a GGUF file: the kept tensors byte for byte, renumbered, with metadata that follows."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO, Protocol

from shapcut.export.gguf_rules import Changes, cut_objection, followed_metadata
from shapcut.models.gguf_header import (
    ARRAY,
    BOOL,
    GGUF_MAGIC,
    SPLIT,
    STRING,
    GGUFHeader,
    MetadataEntry,
    TensorEntry,
    read_gguf_header,
    tensor_bytes,
)
from shapcut.support.errors import InputError, VerificationError

_CHUNK = 1 << 22
_FILE_TYPE = "general.file_type"


class NewWeights(Protocol):
    """Other values for tensors of a cut GGUF file."""

    @property
    def file_type(self) -> int:
        """Number of the file's type in GGML."""

    def kind(self, name: str, shape: tuple[int, ...]) -> int | None:
        """The type in GGML to store a tensor in; None for the bytes of the original.

        Args:
            name: its name in the new file.
            shape: its dimensions, the fastest varying first.
        """

    def content(self, name: str) -> bytes:
        """The bytes of a tensor of that type; the same each time."""


@dataclass(frozen=True, slots=True)
class _Moved:
    """A kept tensor.

    Attributes:
        source: the tensor in the whole model.
        entry: the tensor in the new file, placed as if that began with the first tensor.
        is_new: whether it has other values.
    """

    source: TensorEntry
    entry: TensorEntry
    is_new: bool


def write_gguf_cut(
    source: Path, kept: Sequence[int], target: Path, weights: NewWeights | None = None
) -> None:
    """Write the kept blocks of a GGUF file into a new one, and compare the two.

    Tensors are copied as they are stored, in their order, a few megabytes at a time. The parts of a split
    model become one file.

    Args:
        source: a GGUF file, or a part of a split model.
        kept: the blocks that stay, ascending.
        target: the new file.
        weights: other values; None: every tensor is copied.

    Raises:
        InputError: if the source is damaged, or the cut is not known to behave as the bypassed original.
        VerificationError: if the new file does not hold what was to be written.
        OSError: if a file cannot be read or written.
    """
    header = read_gguf_header(source)
    if objection := cut_objection(header, kept):
        raise InputError(f"cannot cut {source}: {objection}")
    moved = _moved(header, kept, weights)
    changes = followed_metadata(header, kept)
    if weights is not None and _FILE_TYPE in header.by_name:
        changes.numbers[_FILE_TYPE] = weights.file_type
    with ExitStack() as stack:
        parts = [stack.enter_context(file.open("rb")) for file in header.files]
        start = _header_bytes(parts[0], header, moved, changes)
        with target.open("xb") as written:
            written.write(start)
            for tensor in moved:
                for chunk in _contents(parts, tensor, weights):
                    written.write(chunk)
                written.write(bytes(-tensor.entry.size % header.alignment))
        _verify(parts, target, moved, start, weights)


def _moved(header: GGUFHeader, kept: Sequence[int], weights: NewWeights | None) -> tuple[_Moved, ...]:
    """The kept tensors, in the order of the source."""
    places = {old: new for new, old in enumerate(kept)}
    found, offset = [], 0
    for tensor in header.tensors:
        block = tensor.block
        if block is not None and block not in places:
            continue
        name = tensor.name if block is None else tensor.renumbered(places[block])
        kind = None if weights is None else weights.kind(name, tensor.shape)
        entry = replace(tensor, name=name, at=offset, part=0)
        if kind is not None:
            entry = replace(entry, kind=kind, size=tensor_bytes(name, tensor.shape, kind))
        found.append(_Moved(tensor, entry, kind is not None))
        offset += entry.size + -entry.size % header.alignment
    return tuple(found)


def _header_bytes(opened: BinaryIO, header: GGUFHeader, moved: Sequence[_Moved], changes: Changes) -> bytes:
    """The header of the new file, padded to the start of its first tensor."""
    kept = [entry for entry in header.entries if not entry.name.startswith(SPLIT)]
    entries = [_entry_bytes(opened, header, entry, changes) for entry in kept]
    if changes.windows is not None and changes.windows_key not in header.by_name:
        entries.append(_windows_bytes(header, changes))
    parts = [
        GGUF_MAGIC,
        header.packed(4, header.version),
        header.packed(10, len(moved), len(entries)),
        *entries,
        *(_tensor_bytes(header, tensor.entry) for tensor in moved),
    ]
    content = b"".join(parts)
    return content + bytes(-len(content) % header.alignment)


def _entry_bytes(opened: BinaryIO, header: GGUFHeader, entry: MetadataEntry, changes: Changes) -> bytes:
    """An entry of the metadata, as it is stored unless the cut changes it."""
    if entry.name == changes.windows_key and changes.windows is not None:
        return _windows_bytes(header, changes)
    if entry.name in changes.numbers:
        number = header.packed(entry.kind, changes.numbers[entry.name])
        return header.packed_text(entry.name) + header.packed(4, entry.kind) + number
    if entry.name in changes.texts:
        text = header.packed_text(changes.texts[entry.name])
        return header.packed_text(entry.name) + header.packed(4, STRING) + text
    if entry.name in changes.arrays and entry.element is not None and entry.count:
        stored = _span(opened, entry.value_at, entry.end)
        width = len(stored) // entry.count
        elements = [stored[place * width : (place + 1) * width] for place in changes.arrays[entry.name]]
        return _array_start(header, entry.name, entry.element, len(elements)) + b"".join(elements)
    return _span(opened, entry.start, entry.end)


def _windows_bytes(header: GGUFHeader, changes: Changes) -> bytes:
    windows = changes.windows or ()
    return _array_start(header, changes.windows_key, BOOL, len(windows)) + header.packed(BOOL, *windows)


def _array_start(header: GGUFHeader, name: str, element: int, count: int) -> bytes:
    return header.packed_text(name) + header.packed(4, ARRAY, element) + header.packed(10, count)


def _tensor_bytes(header: GGUFHeader, tensor: TensorEntry) -> bytes:
    return (
        header.packed_text(tensor.name)
        + header.packed(4, len(tensor.shape))
        + header.packed(10, *tensor.shape)
        + header.packed(4, tensor.kind)
        + header.packed(10, tensor.at)
    )


def _contents(parts: Sequence[BinaryIO], tensor: _Moved, weights: NewWeights | None) -> Iterator[bytes]:
    """The bytes of a tensor to write, in chunks."""
    if weights is None or not tensor.is_new:
        yield from _chunks(parts[tensor.source.part], tensor.source.at, tensor.source.size)
        return
    content = weights.content(tensor.entry.name)
    for place in range(0, tensor.entry.size, _CHUNK):
        yield content[place : place + _CHUNK]


def _verify(
    parts: Sequence[BinaryIO],
    target: Path,
    moved: Sequence[_Moved],
    start: bytes,
    weights: NewWeights | None,
) -> None:
    """Read the new file again: its header, and each tensor against what was to be written.

    Raises:
        VerificationError: with the first difference.
    """
    try:
        found = read_gguf_header(target)
    except InputError as error:
        raise VerificationError(f"the written GGUF file is damaged: {error}") from error
    expected = [replace(tensor.entry, at=len(start) + tensor.entry.at) for tensor in moved]
    with target.open("rb") as after:
        if list(found.tensors) != expected or after.read(len(start)) != start:
            raise VerificationError("the header of the written GGUF file is not what was written")
        for tensor, there in zip(moved, expected, strict=True):
            before = _contents(parts, tensor, weights)
            pairs = zip(before, _chunks(after, there.at, there.size), strict=True)
            if any(old != new for old, new in pairs):
                raise VerificationError(f"the tensor {there.name} of the written GGUF file differs")


def _chunks(opened: BinaryIO, at: int, size: int) -> Iterator[bytes]:
    """The bytes of a span, a few megabytes at a time.

    Raises:
        OSError: if the file has become shorter.
    """
    for place in range(at, at + size, _CHUNK):
        yield _span(opened, place, min(place + _CHUNK, at + size))


def _span(opened: BinaryIO, start: int, end: int) -> bytes:
    opened.seek(start)
    found = opened.read(end - start)
    if len(found) < end - start:
        raise OSError(f"{opened.name} has become shorter while it was read")
    return found
