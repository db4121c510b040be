import json
import os
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from shapcut.data import text as texts
from shapcut.data.text import builtin_text, read_source
from shapcut.data.windows import (
    Calibration,
    check_size,
    check_source,
    held_out_tokens,
    load_calibration,
    load_held_out,
    split_text,
    token_windows,
)
from shapcut.support.errors import InputError

ALPHABET = "abcdefghijklmnopqrstuvwxyz"


@pytest.fixture
def text_file(tmp_path: Path) -> str:
    file = tmp_path / "text.txt"
    file.write_text("\n".join(f"line number {number}" for number in range(400)))
    return str(file)


def refusal(source: str) -> str:
    with pytest.raises(InputError) as caught:
        check_source(source)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_builtin_text_is_enough_prose_without_repeats() -> None:
    text = builtin_text()
    paragraphs = text.strip().split("\n\n")
    assert len(paragraphs) == len(set(paragraphs))
    assert len(text.split()) > 30_000
    assert ">>>" not in text
    assert text == builtin_text()


def test_the_split_is_contiguous_and_holds_out_the_last_quarter() -> None:
    text = "\n\n".join(f"Paragraph {number}.\nSecond line." for number in range(100))
    calibration, held_out = split_text(text)
    assert calibration + held_out == text
    assert calibration.endswith("\n\n")
    assert held_out.startswith("Paragraph")
    assert 0.2 < len(held_out) / len(text) <= 0.25


@pytest.mark.parametrize("boundary", ["\n", " ", ""])
def test_a_text_without_paragraphs_is_cut_at_the_best_boundary_there_is(boundary: str) -> None:
    text = boundary.join(["word"] * 400)
    calibration, held_out = split_text(text)
    assert calibration + held_out == text
    assert calibration.endswith(boundary)
    assert abs(len(held_out) / len(text) - 0.25) < 0.01


def test_documents_are_joined_before_the_split() -> None:
    documents = ["one.", "two.", "three.", "four."]
    calibration, held_out = split_text(documents)
    assert calibration + held_out == "\n\n".join(documents)
    assert held_out == "four."


def test_the_first_windows_are_taken_without_a_seed(tokenizer: Any) -> None:
    windows = token_windows(tokenizer, ALPHABET, 3, 5, None)
    assert windows.dtype == torch.int64
    assert [tokenizer.decode(window) for window in windows] == ["abcde", "fghij", "klmno"]


def test_a_seed_chooses_windows_that_do_not_overlap_in_ascending_order(tokenizer: Any) -> None:
    chosen = [
        "".join(tokenizer.decode(window) for window in token_windows(tokenizer, ALPHABET, 3, 4, seed))
        for seed in range(8)
    ]
    assert len(set(chosen)) > 1
    for text in chosen:
        assert list(text) == sorted(set(text))
        assert all(ALPHABET.index(text[start]) % 4 == 0 for start in (0, 4, 8))
    again = token_windows(tokenizer, ALPHABET, 3, 4, 5)
    assert torch.equal(again, token_windows(tokenizer, ALPHABET, 3, 4, 5))


def test_a_bos_token_is_put_first_if_the_tokenizer_adds_one(bos_tokenizer: Any) -> None:
    windows = token_windows(bos_tokenizer, ALPHABET, 2, 5, None)
    assert windows.tolist() == [[0, *bos_tokenizer("abcd").input_ids[1:]], bos_tokenizer("efgh").input_ids]


def test_a_tokenizer_without_a_bos_token_is_served(tokenizer: Any) -> None:
    class Bare:
        def __call__(self, text: str, **options: Any) -> dict[str, list[int]]:
            return {"input_ids": tokenizer(text, **options).input_ids}

    assert torch.equal(
        token_windows(Bare(), ALPHABET, 2, 5, None), token_windows(tokenizer, ALPHABET, 2, 5, None)
    )


@pytest.mark.parametrize(("length", "fits"), [(13, True), (14, False)])
def test_a_text_that_is_too_short_is_refused(tokenizer: Any, length: int, fits: bool) -> None:
    if fits:
        assert token_windows(tokenizer, ALPHABET, 2, length, 0).shape == (2, length)
        return
    with pytest.raises(InputError, match=r"2 samples of 14 tokens need 28 tokens, it has 26"):
        token_windows(tokenizer, ALPHABET, 2, length, 0)


def test_calibration_and_held_out_text_never_overlap(text_file: str, tokenizer: Any) -> None:
    calibration = load_calibration(text_file, tokenizer, samples=50, sequence_length=80, seed=1)
    held_out = load_held_out(text_file, tokenizer, samples=15, sequence_length=80)
    seen = {line for window in calibration.input_ids for line in tokenizer.decode(window).split("\n")[1:-1]}
    unseen = {line for window in held_out.input_ids for line in tokenizer.decode(window).split("\n")[1:-1]}
    assert seen
    assert unseen
    assert not seen & unseen


def test_held_out_windows_are_spread_evenly(text_file: str, tokenizer: Any) -> None:
    tokens = held_out_tokens(text_file, tokenizer)
    held_out = load_held_out(text_file, tokenizer, samples=4, sequence_length=20)
    available = len(tokens) // 20
    starts = [number * available // 4 * 20 for number in range(4)]
    assert held_out.input_ids.tolist() == [tokens[start : start + 20].tolist() for start in starts]
    assert starts[-1] > len(tokens) / 2


def test_a_calibration_says_what_it_is(text_file: str, bos_tokenizer: Any) -> None:
    calibration = load_calibration(text_file, bos_tokenizer, samples=4, sequence_length=16)
    assert (calibration.samples, calibration.sequence_length, calibration.n_tokens) == (4, 16, 64)
    assert calibration.adds_bos
    assert calibration.source == text_file
    assert load_held_out(text_file, bos_tokenizer, samples=2, sequence_length=16).adds_bos


def test_the_fingerprint_depends_on_the_ids_and_their_shape() -> None:
    ids = torch.arange(12)
    prints = {
        Calibration(ids.reshape(shape) + offset, "", adds_bos=False).fingerprint
        for shape in ((3, 4), (4, 3))
        for offset in (0, 1)
    }
    assert len(prints) == 4
    assert Calibration(ids.reshape(3, 4), "", adds_bos=False).fingerprint in prints


@pytest.mark.parametrize(
    ("samples", "length", "words"),
    [(0, 128, "--samples 0"), (-1, 128, "--samples -1"), (16, 1, "--sequence-length 1"), (1, 300, "256")],
)
def test_sizes_that_make_no_sense_are_refused(
    samples: int, length: int, words: str, text_file: str, tokenizer: Any
) -> None:
    with pytest.raises(InputError, match=words):
        check_size(samples, length, 256)
    with pytest.raises(InputError, match=words):
        load_calibration(text_file, tokenizer, samples=samples, sequence_length=length, max_length=256)
    with pytest.raises(InputError, match=words):
        load_held_out(text_file, tokenizer, samples=samples, sequence_length=length, max_length=256)


def test_builtin_and_a_text_file_are_good_sources(text_file: str) -> None:
    check_source("builtin")
    check_source(text_file)
    assert read_source("builtin") == builtin_text()


def test_json_lines_are_objects_or_strings(tmp_path: Path) -> None:
    file = tmp_path / "text.jsonl"
    first = "one\u2028still one\x85and still"
    file.write_text(
        json.dumps({"text": first, "id": 1}, ensure_ascii=False) + '\n\n"two"\n', encoding="utf-8"
    )
    check_source(str(file))
    assert read_source(str(file)) == f"{first}\n\ntwo"


@pytest.mark.parametrize("line", ["{bad", "3", '{"txt": "x"}', '{"text": null}'])
def test_a_bad_json_line_is_refused_with_its_number(tmp_path: Path, line: str) -> None:
    file = tmp_path / "text.jsonl"
    file.write_text(f'"good"\n\n{line}\n')
    assert "line 3" in refusal(str(file))


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("empty.txt", b"", "is empty"),
        ("blank.txt", b" \n", "is empty"),
        ("empty.jsonl", b"", "is empty"),
        ("latin.txt", "Stra\u00dfe".encode("latin-1"), "not UTF-8"),
        ("table.csv", b"a,b", "not a .txt or .jsonl"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused(tmp_path: Path, name: str, content: bytes, words: str) -> None:
    (tmp_path / name).write_bytes(content)
    assert words in refusal(str(tmp_path / name))


def test_a_directory_is_refused(tmp_path: Path) -> None:
    assert "not a .txt or .jsonl" in refusal(str(tmp_path))


def test_a_missing_source_is_refused() -> None:
    assert "does not exist" in refusal("/nowhere/text.txt")
    assert "did you mean 'builtin'?" in refusal("biultin")


def test_a_byte_order_mark_is_not_text(tmp_path: Path) -> None:
    file = tmp_path / "text.txt"
    file.write_bytes(b"\xef\xbb\xbfhello")
    assert read_source(str(file)) == "hello"


def test_a_hub_data_set_needs_a_name() -> None:
    assert "hf:NAME" in refusal("hf:")


@pytest.mark.parametrize("name", ["text.txt", "text.jsonl"])
def test_a_text_that_may_never_end_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).symlink_to("/dev/zero")
    assert "is a device, a FIFO or a socket" in refusal(str(tmp_path / name))
    os.mkfifo(tmp_path / f"fifo-{name}")
    assert "is a device, a FIFO or a socket" in refusal(str(tmp_path / f"fifo-{name}"))


def test_half_of_a_surrogate_pair_is_refused_with_its_line(tmp_path: Path) -> None:
    file = tmp_path / "text.jsonl"
    file.write_text('"good"\n{"text": "x\\ud800y"}\n')
    assert r"line 2: the text has half of a surrogate pair, '\ud800'" in refusal(str(file))


def test_a_hub_data_set_needs_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(texts.importlib.util, "find_spec", lambda name: None)
    assert "pip install 'shapcut[hub]'" in refusal("hf:wikitext")


@pytest.fixture
def hub_rows(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Stands in for the datasets library; the rows can be changed."""
    rows: list[dict[str, Any]] = [{"text": f"document {number}"} for number in range(10)]

    def load_dataset(name: str, config: str | None, *, split: str, streaming: bool) -> Iterator[Any]:
        if (name, config, split) != ("owner/set", "small", "train"):
            raise ValueError(f"unknown {name} {config} {split}\nsecond line")
        return iter(rows)

    module = types.ModuleType("datasets")
    module.load_dataset = load_dataset  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "datasets", module)
    monkeypatch.setattr(texts.importlib.util, "find_spec", lambda name: object())
    return rows


def test_a_hub_data_set_is_read_as_far_as_needed(
    hub_rows: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(texts, "MAX_HUB_CHARACTERS", 25)
    check_source("hf:owner/set:small")
    assert read_source("hf:owner/set:small") == "document 0\n\ndocument 1\n\ndocument 2"


def test_a_hub_data_set_that_cannot_be_read_is_refused(hub_rows: list[dict[str, Any]]) -> None:
    with pytest.raises(InputError, match=r"cannot read hf:other: unknown other None train$"):
        read_source("hf:other")
    hub_rows[0] = {"title": "x", "body": "y"}
    with pytest.raises(InputError, match="its columns: body, title"):
        read_source("hf:owner/set:small")
    hub_rows.clear()
    with pytest.raises(InputError, match="is empty"):
        read_source("hf:owner/set:small")


def test_the_held_out_tokens_are_the_last_quarter(text_file: str, tokenizer: Any) -> None:
    tokens = held_out_tokens(text_file, tokenizer)
    assert tokens.dtype == np.int64
    assert tokenizer.decode(tokens) == split_text(Path(text_file).read_text())[1]
