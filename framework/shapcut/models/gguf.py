"""GGUF files: validated before a library reads them, and loaded with dense weights."""

import mmap
import re
import struct
from pathlib import Path
from typing import Any

import torch

from shapcut.support.errors import InputError
from shapcut.support.quiet import quiet_libraries, without_stderr

_GGUF_WIDTHS = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
"""Bytes per number of each GGUF type."""

_BLOCK = re.compile(rb"blk\.(\d{1,9})\.")

_GGUF_STRING, _GGUF_ARRAY = 8, 9


def require_sound_gguf(file: Path) -> None:
    """Validate a GGUF file's header, because libraries would follow a damaged length without end.

    Raises:
        InputError: if a length exceeds the file, there are more blocks than tensors, or tensors of blocks
            that the header does not count.
    """
    try:
        with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as content:
            _GGUFHeader(content).check()
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read the GGUF file {file}: {error}; is the copy complete?") from error


def dense_weights(dtype: torch.dtype | None) -> dict[str, Any]:
    """Keyword arguments that make transformers load a GGUF file's weights dense; None is float32.

    Dense weights also make transformers drop the quantization, which it could not save.
    """
    from transformers import GgufConfig  # noqa: PLC0415 - seconds to import

    return {"quantization_config": GgufConfig(dequantize=True), "dtype": dtype or torch.float32}


def load_dequantized(file: Path) -> tuple[Any, Any]:
    """The model of a sound GGUF file in float32, in evaluation mode, and its tokenizer."""
    from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: PLC0415 - as above

    models: Any = AutoModelForCausalLM
    tokenizers: Any = AutoTokenizer
    place = {"gguf_file": str(file), "local_files_only": True}
    with quiet_libraries(), without_stderr():
        model = models.from_pretrained(file.parent, **place, **dense_weights(None))
        tokenizer = tokenizers.from_pretrained(file.parent, **place)
    return model.eval(), tokenizer


class _GGUFHeader:
    """Reads the header before the weights, never beyond the end of the file.

    Raises:
        ValueError: with the reason.
    """

    def __init__(self, content: mmap.mmap) -> None:
        self._content = content
        self._big = content[4:6] == b"\0\0"
        self._at = 8

    def check(self) -> None:
        """Read the whole header."""
        tensors, pairs = self._number("Q"), self._number("Q")
        blocks: int | None = None
        for _ in range(pairs):
            name, kind = self._string(), self._number("I")
            found = self._value(kind)
            if name.endswith(b".block_count"):
                blocks = int.from_bytes(found, "big" if self._big else "little")
                if blocks > tensors:
                    raise ValueError(f"it has {tensors} tensors, which are too few for {blocks} blocks")
        for _ in range(tensors):
            name = self._tensor()
            block = _BLOCK.match(name)
            if blocks is not None and block is not None and int(block[1]) >= blocks:
                raise ValueError(f"it has the tensor {name.decode()}, but its header counts {blocks} blocks")

    def _tensor(self) -> bytes:
        """The name of the next tensor."""
        name = self._string()
        self._passed(8 * self._number("I") + 4 + 8)  # the shape, a type, an offset
        return name

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
            raise ValueError(f"{kind} before {self._at} is not a value type")
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
