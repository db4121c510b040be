"""Damaged and hostile GGUF files, each refused in one line before anything follows what it states."""

import struct
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest
from gguf_files import write_gguf_file

from shapcut.models.gguf_header import read_gguf_header
from shapcut.support.errors import InputError

UINT32, INT32, FLOAT32, TEXT, ARRAY = 4, 5, 6, 8, 9
NORM = b"blk.2.attn_norm.weight"


def text(content: str) -> bytes:
    return struct.pack("<Q", len(content)) + content.encode()


def value(key: str, kind: int, packed: bytes) -> Callable[[bytes], bytes]:
    """Overwrite the value of a key, of the same length."""

    def change(content: bytes) -> bytes:
        start = content.index(text(key)) + len(text(key))
        new = struct.pack("<I", kind) + packed
        return content[:start] + new + content[start + len(new) :]

    return change


def at(position: int, packed: bytes) -> Callable[[bytes], bytes]:
    return lambda content: content[:position] + packed + content[position + len(packed) :]


def tensor(offset: int, packed: bytes, name: bytes = NORM) -> Callable[[bytes], bytes]:
    """Overwrite what follows a tensor's name: number of dimensions, one dimension, type, offset."""

    def change(content: bytes) -> bytes:
        return at(content.index(name) + len(name) + offset, packed)(content)

    return change


def renamed(old: str, new: str) -> Callable[[bytes], bytes]:
    return lambda content: content.replace(text(old), text(new), 1)


DAMAGE: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "cut in its tensors": (lambda content: content[:-40], "after its end"),
    "cut in its header": (lambda content: content[:300], "are more than it has"),
    "nothing but its magic": (lambda content: content[:4], "are more than it has"),
    "another version": (at(4, struct.pack("<I", 1)), "version 1 of the format"),
    "no tensors": (at(8, struct.pack("<Q", 0)), "too few for 6 blocks"),
    "absurdly many tensors": (at(8, struct.pack("<Q", 1 << 60)), "are more than it has"),
    "absurdly many keys": (at(16, struct.pack("<Q", 1 << 60)), "is not a value type|are more than it has"),
    "an absurd array": (
        value("tokenizer.ggml.token_type", ARRAY, struct.pack("<IQ", INT32, 1 << 61)), "are more than it has",
    ),
    "an absurd array of texts": (
        value("tokenizer.ggml.tokens", ARRAY, struct.pack("<IQ", TEXT, 1 << 61)), "are more than it has",
    ),
    "an array of arrays": (
        value("tokenizer.ggml.tokens", ARRAY, struct.pack("<IQ", ARRAY, 2)), "9 before .* not a value type",
    ),
    "a block count that is no whole number": (
        value("llama.block_count", FLOAT32, struct.pack("<f", 6.0)), "llama.block_count is no whole number",
    ),
    "a block count of billions": (
        value("llama.block_count", UINT32, struct.pack("<I", 1 << 31)), "too few for 2147483648 blocks",
    ),
    "fewer blocks than tensors": (
        value("llama.block_count", UINT32, struct.pack("<I", 3)), "has the tensor blk.3.*counts 3 blocks",
    ),
    "a block beyond all": (renamed("blk.2.attn_norm.weight", "blk.9.attn_norm.weight"), "counts 6 blocks"),
    "a block of a huge number": (
        renamed("blk.2.attn_norm.weight", "blk.99999999999.weight"), "has no number of a block",
    ),
    "a block number with a zero in front": (
        renamed("blk.2.attn_norm.weight", "blk.02.attn_nor.weight"), "has no number of a block",
    ),
    "a tensor twice": (renamed("blk.2.attn_norm.weight", "blk.1.attn_norm.weight"), "comes twice"),
    "a key twice": (renamed("llama.b", "llama.a"), "its key 'llama.a' comes twice"),
    "overlapping tensors": (tensor(16, struct.pack("<Q", 0)), "starts inside another one"),
    "a tensor beyond the file": (tensor(16, struct.pack("<Q", 1 << 40)), "after its end"),
    "a tensor beside its alignment": (tensor(16, struct.pack("<Q", 1)), "starts inside another one"),
    "an endless tensor": (tensor(4, struct.pack("<Q", 1 << 62)), "after its end"),
    "many dimensions": (tensor(0, struct.pack("<I", 1 << 20)), "has 1048576 dimensions"),
    "an unknown type": (tensor(12, struct.pack("<I", 999)), "has the type 999"),
    "a type that does not divide its row": (tensor(12, struct.pack("<I", 8)), "its type does not divide"),
    "an odd alignment": (
        value("general.alignment", UINT32, struct.pack("<I", 48)), "is 48, which is no power of two",
    ),
    "an alignment of 0": (
        value("general.alignment", UINT32, struct.pack("<I", 0)), "is 0, which is no power of two",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("change", "message"), DAMAGE.values(), ids=DAMAGE)
def test_damage_is_refused_in_one_line(
    tmp_path: Path, change: Callable[[bytes], bytes], message: str
) -> None:
    file = write_gguf_file(tmp_path / "damaged.gguf", alignment=64, a=1, b=2)
    sound = file.read_bytes()
    assert read_gguf_header(file).block_count == 6
    file.write_bytes(change(sound))
    assert file.read_bytes() != sound
    with pytest.raises(InputError, match=message) as caught:
        read_gguf_header(file)
    told = str(caught.value)
    assert told.startswith(f"cannot read the GGUF file {file}: ")
    assert "\n" not in told


def test_one_part_of_a_split_model_is_refused(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "model.gguf", "llama", split_max_tensors=1)
    writer.add_block_count(2)
    for block in range(2):
        writer.add_tensor(f"blk.{block}.attn_norm.weight", np.ones(32, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    for part in ("model-00001-of-00002.gguf", "model-00002-of-00002.gguf"):
        with pytest.raises(
            InputError, match=f"{part} is one of 2 parts of a model; join them with: llama-gguf"
        ):
            read_gguf_header(tmp_path / part)


def test_a_name_that_is_no_text_is_kept(tmp_path: Path) -> None:
    file = write_gguf_file(tmp_path / "odd.gguf", blocks=1)
    file.write_bytes(file.read_bytes().replace(b"token_embd.weight", b"token_\xff\xfe\n\x1b.weight"[:17]))
    names = [tensor.name for tensor in read_gguf_header(file).tensors]
    assert names[0].encode("utf-8", "surrogateescape").startswith(b"token_\xff\xfe")
