"""Cut a GGUF file: the kept tensors byte for byte, renumbered, with metadata that follows."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

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
)
from shapcut.support.errors import InputError, VerificationError

_CHUNK = 1 << 22


@dataclass(frozen=True, slots=True)
class _Moved:
    """A kept tensor.

    Attributes:
        source: the tensor in the whole model.
        name: its new name.
        offset: where it starts, counted from the start of the first tensor.
    """

    source: TensorEntry
    name: str
    offset: int


def write_gguf_cut(source: Path, kept: Sequence[int], target: Path) -> None:
    """Write the kept blocks of a GGUF file into a new one, and compare the two.

    Tensors are copied as they are stored, in their order, a few megabytes at a time. The parts of a split
    model become one file.

    Args:
        source: a GGUF file, or a part of a split model.
        kept: the blocks that stay, ascending.
        target: the new file.

    Raises:
        InputError: if the source is damaged, or the cut is not known to behave as the bypassed original.
        VerificationError: if the new file does not hold what was to be written.
        OSError: if a file cannot be read or written.
    """
    header = read_gguf_header(source)
    if objection := cut_objection(header, kept):
        raise InputError(f"cannot cut {source}: {objection}")
    moved = _moved(header, kept)
    with ExitStack() as stack:
        parts = [stack.enter_context(file.open("rb")) for file in header.files]
        start = _header_bytes(parts[0], header, moved, followed_metadata(header, kept))
        with target.open("xb") as written:
            written.write(start)
            for tensor in moved:
                for chunk in _chunks(parts[tensor.source.part], tensor.source.at, tensor.source.size):
                    written.write(chunk)
                written.write(bytes(-tensor.source.size % header.alignment))
        _verify(parts, target, moved, start)


def _moved(header: GGUFHeader, kept: Sequence[int]) -> tuple[_Moved, ...]:
    """The kept tensors, in the order of the source."""
    places = {old: new for new, old in enumerate(kept)}
    found, offset = [], 0
    for tensor in header.tensors:
        block = tensor.block
        if block is not None and block not in places:
            continue
        name = tensor.name if block is None else tensor.renumbered(places[block])
        found.append(_Moved(tensor, name, offset))
        offset += tensor.size + -tensor.size % header.alignment
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
        *(_tensor_bytes(header, tensor) for tensor in moved),
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


def _tensor_bytes(header: GGUFHeader, tensor: _Moved) -> bytes:
    shape = tensor.source.shape
    return (
        header.packed_text(tensor.name)
        + header.packed(4, len(shape))
        + header.packed(10, *shape)
        + header.packed(4, tensor.source.kind)
        + header.packed(10, tensor.offset)
    )


def _verify(parts: Sequence[BinaryIO], target: Path, moved: Sequence[_Moved], start: bytes) -> None:
    """Read the new file again: its header, and each tensor against the source's.

    Raises:
        VerificationError: with the first difference.
    """
    try:
        found = read_gguf_header(target)
    except InputError as error:
        raise VerificationError(f"the written GGUF file is damaged: {error}") from error
    places = [(tensor, len(start) + tensor.offset) for tensor in moved]
    expected = [replace(tensor.source, name=tensor.name, at=at, part=0) for tensor, at in places]
    with target.open("rb") as after:
        if list(found.tensors) != expected or after.read(len(start)) != start:
            raise VerificationError("the header of the written GGUF file is not what was written")
        for tensor, there in zip(moved, expected, strict=True):
            before = _chunks(parts[tensor.source.part], tensor.source.at, there.size)
            pairs = zip(before, _chunks(after, there.at, there.size), strict=True)
            if any(old != new for old, new in pairs):
                raise VerificationError(f"the tensor {tensor.name} of the written GGUF file differs")


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
