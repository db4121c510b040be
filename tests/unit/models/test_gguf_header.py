"""Damaged and hostile GGUF files, each refused in one line before anything follows what it states."""

import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from gguf_files import write_gguf_file

from shapcut.models.gguf_header import read_gguf_header
from shapcut.support.errors import InputError

UINT16, UINT32, INT32, FLOAT32, TEXT, ARRAY = 2, 4, 5, 6, 8, 9
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
        value("llama.block_count", FLOAT32, struct.pack("<f", 6.0)), "llama.block_count. is no whole number",
    ),
    "a block count of billions": (
        value("llama.block_count", UINT32, struct.pack("<I", 1 << 31)), "too few for 2147483648 blocks",
    ),
    "fewer blocks than tensors": (
        value("llama.block_count", UINT32, struct.pack("<I", 3)), "has the tensor .blk.3.*counts 3 blocks",
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
    "a name that would move the cursor": (
        renamed("blk.2.attn_norm.weight", "blk.9.\n\x1b[2J_norm.weight"), r"blk\.9\.\\n\\x1b\[2J_norm",
    ),
    "a name as long as a page": (
        lambda content: content.replace(text("blk.2.attn_norm.weight"), struct.pack("<Q", 400) + NORM, 1),
        "has 400 characters, more than 127",
    ),
    "a key as long as a file": (
        lambda content: content.replace(text("llama.b"), text("llama.b".ljust(70_000, "x")), 1),
        "has 70000 characters, more than 65535",
    ),
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
    assert told.isprintable()
    assert len(told) < 400 + len(str(file))


def test_any_part_of_a_split_model_names_all(tmp_path: Path) -> None:
    whole = read_gguf_header(write_gguf_file(tmp_path / "whole.gguf"))
    first = write_gguf_file(tmp_path / "model.gguf", split=5)
    parts = sorted(tmp_path.glob("model-*-of-00003.gguf"))
    assert parts[0] == first
    for part in parts:
        found = read_gguf_header(part)
        assert found.files == tuple(parts)
        assert [tensor.name for tensor in found.tensors] == [tensor.name for tensor in whole.tensors]
        assert [tensor.part for tensor in found.tensors] == [0] * 5 + [1] * 5 + [2] * 3
        assert found.architecture == "llama"


def test_a_split_model_that_is_not_complete_is_refused_by_name(tmp_path: Path) -> None:
    first = write_gguf_file(tmp_path / "model.gguf", split=5)
    second = first.with_name("model-00002-of-00003.gguf")
    second.rename(tmp_path / "away")
    with pytest.raises(InputError, match=r"one of 3 parts of a model, but .*-00002-of-00003.gguf is missing"):
        read_gguf_header(first)
    second.write_bytes(first.read_bytes())
    with pytest.raises(InputError, match=r"model-00002-of-00003.gguf is not part 2 of 3 of the model"):
        read_gguf_header(first)
    renamed = first.rename(tmp_path / "model.gguf")
    with pytest.raises(InputError, match=r"its name does not say so: .* NAME-00001-of-00003.gguf"):
        read_gguf_header(renamed)


def test_parts_of_different_models_are_refused(tmp_path: Path) -> None:
    first = write_gguf_file(tmp_path / "model.gguf", split=5)
    last = first.with_name("model-00003-of-00003.gguf")
    other = write_gguf_file(tmp_path / "other.gguf", split=5, blocks=7)
    last.write_bytes(other.with_name("other-00003-of-00003.gguf").read_bytes())
    with pytest.raises(InputError, match="of different models"):
        read_gguf_header(first)
    last.write_bytes(first.with_name("model-00002-of-00003.gguf").read_bytes())
    last.write_bytes(value("split.no", UINT16, struct.pack("<H", 2))(last.read_bytes()))
    with pytest.raises(InputError, match="are of different models"):
        read_gguf_header(first)


def test_a_name_that_is_no_text_is_kept(tmp_path: Path) -> None:
    file = write_gguf_file(tmp_path / "odd.gguf", blocks=1)
    file.write_bytes(file.read_bytes().replace(b"token_embd.weight", b"token_\xff\xfe\n\x1b.weight"[:17]))
    names = [tensor.name for tensor in read_gguf_header(file).tensors]
    assert names[0].encode("utf-8", "surrogateescape").startswith(b"token_\xff\xfe")
