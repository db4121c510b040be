"""GGUF files read by transformers: the same values as ever, parsed fast and once.

transformers reads most architectures with `gguf.GGUFReader`, once each for the config, the weights and the
tokenizer. That reader makes two NumPy arrays of each element of an array, which takes half a minute for a
vocabulary of 262,144 tokens. Here it makes views of memory, each file is parsed once, and the parts of a
split model are one file.
"""

import functools
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from shapcut.models.gguf_header import ARRAY, NUMBER_FORMATS, SPLIT, STRING
from shapcut.models.gguf_parts import parts_of

_Parts = tuple[int, list[Any], list[int], list[Any]]


@contextmanager
def parsed_once(is_gguf: bool = True) -> Iterator[None]:
    """Give libraries one quick reader per GGUF file while the context lasts.

    Args:
        is_gguf: whether there is a GGUF file to read; if not, nothing is imported or changed.
    """
    if not is_gguf:
        yield
        return
    import gguf  # noqa: PLC0415 - only for GGUF files
    from gguf.gguf_reader import GGUFReader  # noqa: PLC0415 - as above

    package: Any = gguf
    before, readers = package.GGUFReader, dict[tuple[Any, ...], Any]()
    if before is not GGUFReader:  # an outer context's
        yield
        return

    def reader(path: Any, mode: Any = "r") -> Any:
        if mode != "r":
            return before(path, mode)
        state = Path(path).stat()
        key = (state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns)
        if key not in readers:
            readers.clear()
            readers[key] = _of_all_parts(Path(path))
        return readers[key]

    package.GGUFReader = reader
    try:
        yield
    finally:
        package.GGUFReader = before


def _of_all_parts(file: Path) -> Any:
    """The reader of a file; of the first file of a split model, with the tensors of all."""
    found = _quick_reader()(file)
    count = found.fields.get(f"{SPLIT}count")
    if count is not None and count.contents() > 1:
        for other in parts_of(file)[1:]:
            found.tensors += _quick_reader()(other).tensors
    return found


@functools.cache
def _quick_reader() -> Any:
    """A `gguf.GGUFReader` whose arrays are views of memory."""
    from gguf.gguf_reader import GGUFReader  # noqa: PLC0415 - as above

    usual: Callable[[Any, int, int], _Parts] = GGUFReader._get_field_parts  # noqa: SLF001 - slow part

    def parts(self: Any, start: int, kind: int) -> _Parts:
        flat = kind == ARRAY and self.byte_order == "I"
        return (_array_parts(self, start) if flat else None) or usual(self, start, kind)

    return type("QuickReader", (GGUFReader,), {"_get_field_parts": parts})


def _array_parts(reader: Any, start: int) -> _Parts | None:
    """As the reader's own, of an array in the machine's byte order; None for an array of arrays."""
    from gguf import GGUFValueType  # noqa: PLC0415 - as above

    content = memoryview(reader.data)
    element, count = struct.unpack_from("=IQ", content, start)
    values_at = start + 12
    if element == STRING:
        parts, end = _texts(content, values_at, count)
    elif element in NUMBER_FORMATS:
        form: Any = NUMBER_FORMATS[element]
        end = values_at + count * struct.calcsize(f"={form}")
        numbers = content[values_at:end].cast(form)
        parts = [numbers[place : place + 1] for place in range(count)]
    else:
        return None
    head = [content[start : start + 4].cast("I"), content[start + 4 : values_at].cast("Q")]
    first, step = (3, 2) if element == STRING else (2, 1)
    kinds = [GGUFValueType(ARRAY), *([GGUFValueType(element)] if count else [])]
    return end - start, head + parts, list(range(first, 2 + len(parts), step)), kinds


def _texts(content: memoryview, at: int, count: int) -> tuple[list[Any], int]:
    """Length and bytes of each string, and where the last one ends."""
    parts = []
    for _ in range(count):
        length = content[at : at + 8].cast("Q")
        parts += [length, content[at + 8 : at + 8 + length[0]]]
        at += 8 + length[0]
    return parts, at


def reads_split_models(architecture: str) -> bool:
    """Whether transformers reads the GGUF files of an architecture with `gguf.GGUFReader`."""
    try:
        from transformers.integrations import gguf as own  # noqa: PLC0415 - seconds to import
    except ImportError:
        return True  # versions without a reader of their own
    return not own.is_gguf_arch_supported(architecture)
