"""A cut GGUF file: bytes, names and metadata as the gguf package reads them, and what is refused."""

import struct
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from gguf_files import contents, stored, write_gguf_file

from shapcut.export import gguf_cut
from shapcut.export.gguf_cut import write_gguf_cut
from shapcut.export.model_card import license_in_gguf
from shapcut.support.errors import InputError, VerificationError

KEPT = (0, 2, 3, 5)


def cut(source: Path, kept: tuple[int, ...] = KEPT) -> Path:
    target = source.with_name(f"cut-{source.name}")
    write_gguf_cut(source, kept, target)
    return target


def refused(tmp_path: Path, kept: tuple[int, ...] = KEPT, **file: Any) -> str:
    with pytest.raises(InputError) as caught:
        cut(write_gguf_file(tmp_path / "whole.gguf", **file), kept)
    assert not (tmp_path / "cut-whole.gguf").exists()
    return str(caught.value)


@pytest.mark.parametrize("endian", list(gguf.GGUFEndian))
@pytest.mark.parametrize("alignment", [None, 64])
def test_kept_tensors_keep_their_bytes_and_everything_else_stays(
    tmp_path: Path, alignment: int | None, endian: gguf.GGUFEndian
) -> None:
    source = write_gguf_file(
        tmp_path / "whole.gguf",
        alignment=alignment,
        endian=endian,
        attention__head_count=4,
        rope__freq_base=1e4,
    )
    result = cut(source)
    before, after = stored(source), stored(result)
    places = {f"blk.{new}.": f"blk.{old}." for new, old in enumerate(KEPT)}
    origins = {name: places.get(name[:6], name[:6]) + name[6:] for name in after}
    assert after == {name: before[origins[name]] for name in after}
    assert list(origins.values()) == [name for name in before if name[:6] not in ("blk.1.", "blk.4.")]
    assert list(contents(result).items()) == list((contents(source) | {"llama.block_count": 4}).items())
    readers = gguf.GGUFReader(source), gguf.GGUFReader(result)
    assert readers[0].endianess == readers[1].endianess == endian
    assert readers[0].alignment == readers[1].alignment == (alignment or 32)


def test_every_block_kept_gives_the_same_file(tmp_path: Path) -> None:
    source = write_gguf_file(tmp_path / "whole.gguf", feed_forward_length=[1, 2, 3, 4, 5, 6])
    assert cut(source, tuple(range(6))).read_bytes() == source.read_bytes()


def test_two_cuts_are_one(tmp_path: Path) -> None:
    source = write_gguf_file(tmp_path / "whole.gguf", feed_forward_length=[1, 2, 3, 4, 5, 6])
    twice = cut(cut(source, (0, 2, 3, 4, 5)), (0, 1, 2, 4))
    assert twice.name == "cut-cut-whole.gguf"
    (tmp_path / "cut-whole.gguf").unlink()
    assert twice.read_bytes() == cut(source).read_bytes()


def test_the_parts_of_a_split_model_become_one_file(tmp_path: Path) -> None:
    whole = write_gguf_file(tmp_path / "whole.gguf", feed_forward_length=[1, 2, 3, 4, 5, 6])
    first = write_gguf_file(tmp_path / "split.gguf", feed_forward_length=[1, 2, 3, 4, 5, 6], split=4)
    assert first.name == "split-00001-of-00004.gguf"
    target = tmp_path / "joined.gguf"
    write_gguf_cut(first.with_name("split-00003-of-00004.gguf"), KEPT, target)
    assert target.read_bytes() == cut(whole).read_bytes()


def test_the_metadata_of_the_whole_tells_of_the_cut(tmp_path: Path) -> None:
    general = {"name": "Tiny 1K", "size_label": "1K", "parameter_count": 12345, "finetune": "Instruct"}
    source = write_gguf_file(tmp_path / "whole.gguf", general=general)
    found = contents(cut(source))
    weights = sum(int(np.prod(shape)) for _, shape, _ in stored(tmp_path / "cut-whole.gguf").values())
    assert found["general.name"] == "Tiny 1K (4 of 6 blocks)"
    assert found["general.parameter_count"] == weights
    assert found["general.size_label"] == gguf.size_label(weights, weights, 0, 0)
    assert found["general.finetune"] == "Instruct"
    again = cut(tmp_path / "cut-whole.gguf", (0, 1, 3))
    assert contents(again)["general.name"] == "Tiny 1K (3 of 6 blocks)"


def test_the_card_of_a_directory_states_the_license_of_the_file(tmp_path: Path) -> None:
    general = {"license": "apache-2.0", "license.link": "https://example.org/license", "license.name": 3}
    source = write_gguf_file(tmp_path / "whole.gguf", general=general)
    stated = {"license": "apache-2.0", "license_link": "https://example.org/license"}
    assert license_in_gguf(source) == stated
    assert license_in_gguf(write_gguf_file(tmp_path / "other.gguf")) == {}


def test_the_size_of_a_mixture_is_told_by_its_experts(tmp_path: Path) -> None:
    experts = {f"blk.{block}.ffn_up_exps.weight": np.ones((8, 64, 32), np.float32) for block in range(2)}
    source = write_gguf_file(tmp_path / "whole.gguf", blocks=2, outside=experts, general={"size_label": "?"})
    weights = sum(int(np.prod(shape)) for _, shape, _ in stored(cut(source, (0,))).values())
    shared = weights - 8 * 64 * 32
    assert contents(tmp_path / "cut-whole.gguf")["general.size_label"] == gguf.size_label(
        weights, shared, 64 * 32, 8
    )


def test_a_name_by_which_transformers_tells_architectures_stays(tmp_path: Path) -> None:
    source = write_gguf_file(tmp_path / "whole.gguf", general={"name": "mistral"})
    assert contents(cut(source))["general.name"] == "mistral"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ([8, 0, 0, 8, 0, 8], [8, 0, 8, 8]),
        ([0.5, 1.5, 2.5, 3.5, 4.5, 5.5], [0.5, 2.5, 3.5, 5.5]),
        ([True, False, False, True, True, True], [True, False, True, True]),
    ],
)
def test_an_array_of_blocks_follows(tmp_path: Path, before: list[Any], after: list[Any]) -> None:
    source = write_gguf_file(tmp_path / "whole.gguf", attention__head_count_kv=before)
    found = contents(cut(source))
    assert found["llama.attention.head_count_kv"] == after
    assert found["tokenizer.ggml.token_type"] == [1] * 6


def test_an_array_that_only_looks_like_one_of_blocks_stays(tmp_path: Path) -> None:
    source = write_gguf_file(tmp_path / "whole.gguf", blocks=4, rope__dimension_sections=[1, 2, 3, 4])
    assert contents(cut(source, (0, 3)))["llama.rope.dimension_sections"] == [1, 2, 3, 4]


def test_leading_dense_blocks_are_counted_again(tmp_path: Path) -> None:
    source = write_gguf_file(tmp_path / "whole.gguf", leading_dense_block_count=3)
    assert contents(cut(source))["llama.leading_dense_block_count"] == 2


WINDOWS = "gemma3.attention.sliding_window_pattern"


@pytest.mark.parametrize(
    ("stated", "kept", "expected"),
    [
        ({}, (0, 1, 2, 3, 5, 6), [True, True, True, True, False, True]),
        ({"attention__sliding_window_pattern": 2}, (0, 2, 3), [True, True, False]),
        ({"attention__sliding_window_pattern": 2}, (0, 1, 4, 5), 2),
        ({"attention__sliding_window_pattern": 0}, (0, 1, 4), 0),
        ({"attention__sliding_window_pattern": [True] * 3 + [False] * 5}, (0, 3, 7), [True, False, False]),
        ({}, (0, 1, 2, 6), None),
    ],
)
def test_sliding_windows_stay_with_their_blocks(
    tmp_path: Path, stated: dict[str, Any], kept: tuple[int, ...], expected: Any
) -> None:
    source = write_gguf_file(tmp_path / "whole.gguf", "gemma3", 8, attention__sliding_window=512, **stated)
    found = contents(cut(source, kept))
    assert found.get(WINDOWS) == expected
    assert found["gemma3.block_count"] == len(kept)


@pytest.mark.parametrize(
    "key", ["full_attention_interval", "moe_every_n_layers", "interleave_moe_layer_step"]
)
def test_a_period_of_blocks_is_kept_or_the_cut_refused(tmp_path: Path, key: str) -> None:
    told = refused(tmp_path, (0, 2, 3, 5), **{key: 2})
    assert f"llama.{key} is 2, and the cut breaks that period" in told
    kept = cut(write_gguf_file(tmp_path / "kept.gguf", **{key: 2}), (0, 1, 4, 5))
    assert contents(kept)[f"llama.{key}"] == 2


@pytest.mark.parametrize(
    ("message", "file"),
    {
        "architecture 'lama' is not among": {"architecture": "lama"},
        "the attention scale of gemma2 from its having 46 blocks": {"architecture": "gemma2", "blocks": 46},
        "the attention scale of gemma3 from its having 62 blocks": {"architecture": "gemma3", "blocks": 62},
        "the position encoding of baichuan": {"architecture": "baichuan", "blocks": 40},
        "the sliding windows of exaone4": {"architecture": "exaone4", "blocks": 64},
        'the "lite" variant of deepseek2': {"architecture": "deepseek2", "blocks": 27},
        "nextn_predict_layers is 1": {"nextn_predict_layers": 1},
        "shared_kv_layers is 2": {"architecture": "gemma4", "attention__shared_kv_layers": 2},
        "embedding_length_per_layer_input is 8": {"embedding_length_per_layer_input": 8},
        "n_deepstack_layers is an array": {"n_deepstack_layers": [1, 2]},
        "llama.foo is an array of 5": {"foo": [1, 2, 3, 4, 5]},
        "llama.names is an array of 6": {"names": ["a"] * 6},
        "the meaning of llama.no_rope_every_layers": {"no_rope_every_layers": 4},
        "llama.attention.sliding_window_pattern is 3": {"attention__sliding_window_pattern": 3},
        "llama.full_attention_interval is 2.0, which is no whole number": {"full_attention_interval": 2.0},
        "llama.leading_dense_block_count is True, which is no whole number": {
            "leading_dense_block_count": True
        },
        "has no number of a block": {"outside": {"blk.x.weight": np.ones(8, np.float32)}},
    }.items(),
)
def test_what_is_not_understood_is_refused(tmp_path: Path, message: str, file: dict[str, Any]) -> None:
    assert message in refused(tmp_path, **file)


def test_a_depth_at_which_a_model_behaves_differently_is_refused(tmp_path: Path) -> None:
    told = refused(tmp_path, tuple(range(46)), architecture="gemma2", blocks=48)
    assert "llama.cpp would derive the attention scale of gemma2 from its having 46 blocks" in told


def test_a_block_without_tensors_is_refused(tmp_path: Path) -> None:
    source = write_gguf_file(tmp_path / "whole.gguf")
    key = b"llama.block_count" + struct.pack("<I", 4)
    content = source.read_bytes().replace(key + struct.pack("<I", 6), key + struct.pack("<I", 8))
    source.write_bytes(content)
    with pytest.raises(InputError, match="it has no tensor of block 6, but its header counts 8 blocks"):
        cut(source)


def test_a_difference_after_writing_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = gguf_cut._chunks

    def flipped(opened: Any, at: int, size: int) -> Any:
        for chunk in real(opened, at, size):
            yield bytes([chunk[0] ^ 1]) + chunk[1:] if opened.name.endswith("cut-whole.gguf") else chunk

    source = write_gguf_file(tmp_path / "whole.gguf")
    monkeypatch.setattr(gguf_cut, "_chunks", flipped)
    with pytest.raises(VerificationError, match=r"the tensor token_embd.weight .* differs"):
        cut(source)


def test_memory_does_not_grow_with_tensors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lengths = []
    real = gguf_cut._span

    def watched(opened: Any, start: int, end: int) -> bytes:
        lengths.append(end - start)
        return real(opened, start, end)

    monkeypatch.setattr(gguf_cut, "_span", watched)
    monkeypatch.setattr(gguf_cut, "_CHUNK", 128)
    large = {"output.weight": np.arange(50_000, dtype=np.float32)}
    source = write_gguf_file(tmp_path / "whole.gguf", outside=large)
    assert stored(cut(source))["output.weight"] == stored(source)["output.weight"]
    assert max(lengths) <= 128
