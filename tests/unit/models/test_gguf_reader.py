"""The quick reader of GGUF files against the gguf package's own."""

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from gguf_files import write_gguf_file
from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

from shapcut.models.gguf_reader import parsed_once

GENERAL = {"tags": ["a", "\u00fc", ""], "weights": [0.5, -1.5], "flags": [True, False], "sizes": [-1, 2, 3]}


def same(one: Any, other: Any) -> None:
    assert list(one.fields) == list(other.fields)
    for name, field in one.fields.items():
        twin = other.fields[name]
        assert (field.offset, field.data, field.types) == (twin.offset, twin.data, twin.types)
        assert [bytes(part) for part in field.parts] == [bytes(part) for part in twin.parts]
        assert field.contents() == twin.contents()
    for tensor, twin in zip(one.tensors, other.tensors, strict=True):
        assert (tensor.name, tensor.tensor_type, tensor.data_offset) == (
            twin.name,
            twin.tensor_type,
            twin.data_offset,
        )
        np.testing.assert_array_equal(tensor.data, twin.data)


@pytest.mark.parametrize("endian", list(gguf.GGUFEndian))
def test_it_reads_what_the_package_reads(tmp_path: Path, endian: gguf.GGUFEndian) -> None:
    file = write_gguf_file(tmp_path / "model.gguf", endian=endian, general=GENERAL)
    with parsed_once():
        quick = gguf.GGUFReader(file)
    assert type(quick) is not gguf.GGUFReader
    same(quick, gguf.GGUFReader(file))


def test_a_file_is_parsed_once_until_it_changes(tmp_path: Path) -> None:
    file = write_gguf_file(tmp_path / "model.gguf")
    with parsed_once():
        first = gguf.GGUFReader(str(file))
        with parsed_once():
            assert gguf.GGUFReader(file) is first
        assert gguf.GGUFReader(file) is first
        file.unlink()
        write_gguf_file(file, blocks=7)
        assert len(gguf.GGUFReader(file).tensors) == 15
    assert gguf.GGUFReader is gguf.gguf_reader.GGUFReader


def test_nothing_changes_without_a_gguf_file() -> None:
    with parsed_once(is_gguf=False):
        assert gguf.GGUFReader is gguf.gguf_reader.GGUFReader


def test_the_parts_of_a_split_model_are_one(tmp_path: Path) -> None:
    whole = gguf.GGUFReader(write_gguf_file(tmp_path / "whole.gguf"))
    first = write_gguf_file(tmp_path / "model.gguf", split=5)
    with parsed_once():
        found = gguf.GGUFReader(first)
    assert [tensor.name for tensor in found.tensors] == [tensor.name for tensor in whole.tensors]
    for one, other in zip(found.tensors, whole.tensors, strict=True):
        np.testing.assert_array_equal(one.data, other.data)


def test_transformers_reads_the_same_config_and_vocabulary(tiny_gguf_file: Path) -> None:
    with parsed_once():
        found = load_gguf_checkpoint(tiny_gguf_file)
    assert found == load_gguf_checkpoint(tiny_gguf_file)
