"""Large texts: only pieces are read, from whole lines, and no piece twice."""

import json
from pathlib import Path
from typing import Any

import pytest

from shapcut.data import excerpt as excerpts
from shapcut.data import text as texts
from shapcut.data.excerpt import read_excerpt
from shapcut.data.windows import all_windows, first_windows, held_out_tokens, load_calibration, load_held_out
from shapcut.support.errors import InputError

LINES = [f"line {number} äöü" for number in range(4000)]


@pytest.fixture(autouse=True)
def small_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is large here: texts of more than 4 KiB."""
    monkeypatch.setattr(texts, "WHOLE_BYTES", 4096)
    monkeypatch.setattr(excerpts, "WHOLE_BYTES", 4096)
    monkeypatch.setattr(excerpts, "_PIECE_BYTES", 1000)
    monkeypatch.setattr("shapcut.data.windows._EXCERPT_BYTES", 4096)


@pytest.fixture(params=["txt", "jsonl"])
def large(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    file = tmp_path / f"text.{request.param}"
    lines = LINES if request.param == "txt" else [json.dumps({"text": line}) for line in LINES]
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(file)


def lines_of(pieces: tuple[str, ...]) -> list[str]:
    return [line for piece in pieces for line in piece.split("\n") if line]


def test_pieces_are_whole_lines_spread_over_the_part(large: str) -> None:
    found = read_excerpt(large, "calibration", 8000)
    lines = lines_of(found.pieces)
    assert not found.complete
    assert len(found.pieces) == 16
    assert set(lines) < set(LINES)
    assert len(set(lines)) == len(lines)
    assert LINES.index(lines[0]) == 0
    assert 2500 < LINES.index(lines[-1]) < 3100
    assert sum(len(piece.encode()) for piece in found.pieces) < 10_000


def test_the_parts_are_all_lines_once_and_do_not_overlap(large: str) -> None:
    calibration, held_out = (
        lines_of(read_excerpt(large, part, None).pieces) for part in ("calibration", "held-out")
    )
    assert calibration + held_out == LINES
    assert 0.2 < len(held_out) / len(LINES) < 0.26
    assert lines_of(read_excerpt(large, "all", None).pieces) == LINES


def test_the_beginning_is_taken_where_it_is_asked_for(large: str) -> None:
    lines = lines_of(read_excerpt(large, "all", 3000, spread=False).pieces)
    assert lines == LINES[: len(lines)]
    assert len(lines) < 300


@pytest.mark.parametrize("mark", [" ", ""])
def test_a_text_without_lines_is_cut_between_words_or_characters(tmp_path: Path, mark: str) -> None:
    file = tmp_path / "text.txt"
    content = mark.join(["wörd"] * 4000)
    file.write_text(content, encoding="utf-8")
    found = read_excerpt(str(file), "all", None)
    assert "".join(found.pieces) == content
    assert len(found.pieces) > 10


def test_windows_come_from_as_much_text_as_they_need(large: str, tokenizer: Any) -> None:
    few = load_calibration(large, tokenizer, samples=2, sequence_length=16)
    assert few.input_ids.shape == (2, 16)
    many = load_calibration(large, tokenizer, samples=300, sequence_length=100, seed=1)
    assert many.input_ids.shape == (300, 100)
    held_out = load_held_out(large, tokenizer, samples=50, sequence_length=100)
    seen = {line for window in many.input_ids for line in tokenizer.decode(window).split("\n")[1:-1] if line}
    unseen = {
        line for window in held_out.input_ids for line in tokenizer.decode(window).split("\n")[1:-1] if line
    }
    assert seen
    assert unseen
    assert not seen & unseen
    with pytest.raises(InputError, match="is too short"):
        load_calibration(large, tokenizer, samples=3000, sequence_length=100)


def test_the_first_windows_of_a_large_text_are_its_beginning(large: str, tokenizer: Any) -> None:
    windows = first_windows(large, tokenizer, samples=3, sequence_length=13)
    assert tokenizer.decode(windows.input_ids[0]) == "line 0 äöü"
    tokens = held_out_tokens(large, tokenizer, whole=True, at_most=39)
    assert tokens.tolist() == windows.input_ids.flatten().tolist()


def test_all_windows_of_a_large_text_are_bounded(
    large: str, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    everything = len(all_windows(large, tokenizer, 10))
    monkeypatch.setattr("shapcut.data.windows.MOST_BYTES", 8000)
    assert 0 < len(all_windows(large, tokenizer, 10)) < everything / 2


def test_what_is_wrong_in_a_large_text_has_its_place(tmp_path: Path) -> None:
    file = tmp_path / "text.txt"
    file.write_bytes(b"good line\n" * 600 + b"\xff\n" + b"good line\n" * 600)
    with pytest.raises(InputError, match=r"not UTF-8 text \(byte 6000\)"):
        read_excerpt(str(file), "all", None)
    lines = tmp_path / "text.jsonl"
    lines.write_bytes(b'"good"\n' * 600 + b"{\n" + b'"good"\n' * 600)
    with pytest.raises(InputError, match=r"byte \d+, line \d+: not JSON"):
        read_excerpt(str(lines), "all", None)


def test_a_json_line_without_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(excerpts, "_LONGEST_LINE", 2000)
    file = tmp_path / "text.jsonl"
    file.write_text(json.dumps("x" * 9000) + "\n")
    with pytest.raises(InputError, match="a line is longer than 2000 bytes"):
        read_excerpt(str(file), "calibration", 1000)
