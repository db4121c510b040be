import os
from pathlib import Path

import pytest

from shapcut.support.errors import InputError
from shapcut.support.plain_json import parse_json, read_json


def test_plain_json_is_read(tmp_path: Path) -> None:
    file = tmp_path / "file.json"
    file.write_text('{"a": [1, 2.5, null], "b": {"a": "x"}}', encoding="utf-8")
    assert read_json(file) == {"a": [1, 2.5, None], "b": {"a": "x"}}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('{"removed": [1], "removed": [2]}', "the key 'removed' is there twice"),
        ('{"a": {"b": 1, "b": 1}}', "the key 'b' is there twice"),
        ("[" * 100_000, "nested too deeply"),
        ("9" * 5000, "digits"),
        ("{", "line 1"),
    ],
)
def test_json_that_can_mean_two_things_or_nothing_is_refused(content: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        parse_json(content)


def test_a_large_file_is_not_read(tmp_path: Path) -> None:
    file = tmp_path / "file.json"
    file.write_text("[1, 2, 3]")
    assert read_json(file, largest=9) == [1, 2, 3]
    with pytest.raises(ValueError, match="more than 8 bytes"):
        read_json(file, largest=8)


def test_what_may_never_end_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo.json")
    (tmp_path / "zero.json").symlink_to("/dev/zero")
    for name in ("fifo.json", "zero.json"):
        with pytest.raises(InputError, match="a device, a FIFO or a socket"):
            read_json(tmp_path / name)
