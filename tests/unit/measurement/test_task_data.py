"""Files of questions: what is read, and what is refused."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from shapcut.measurement import task_data
from shapcut.measurement.task_data import USUAL, TaskData, expanded, read_questions, task_files
from shapcut.support.errors import InputError

ROW = {"goal": "To cut", "sol1": "use a saw", "sol2": "use a spoon", "label": 0}


def lines(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_zero_shot_is_the_usual_tasks(tmp_path: Path) -> None:
    assert expanded(["zero-shot", "piqa", "copa"]) == (*USUAL, "copa")
    assert set(USUAL) <= set(task_files())
    assert "boolq" in expanded(["zero-shot"], tmp_path)
    (tmp_path / "boolq_contrast.jsonl").touch()
    assert "boolq_contrast" in expanded(["zero-shot"], tmp_path)
    (tmp_path / "boolq.jsonl").touch()
    assert "boolq_contrast" not in expanded(["zero-shot"], tmp_path)


def test_only_the_fields_of_the_task_are_read(tmp_path: Path) -> None:
    path = lines(tmp_path / "piqa.jsonl", ROW | {"more": [1, {"deep": 2}]}, ROW)
    assert read_questions(path, tuple(ROW)) == [ROW, ROW]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "has 0 questions"),
        (b"[1]\n", "no field 'goal'"),
        (b'{"goal": 1}\n', "no field 'sol1'"),
        (b"\n{\n", "line 2"),
        (b'{"goal": 1, "goal": 2}\n', "is there twice"),
        (b"\xff\n", "line 1"),
        (b"[" * 100_000, "nested too deeply"),
    ],
)
def test_what_is_no_question_is_refused_with_its_line(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "piqa.jsonl"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_questions(path, tuple(ROW))


def test_reading_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = lines(tmp_path / "piqa.jsonl", ROW, ROW, ROW)
    monkeypatch.setattr(task_data, "MOST_QUESTIONS", 2)
    with pytest.raises(InputError, match="3 questions"):
        read_questions(path, tuple(ROW))
    monkeypatch.setattr(task_data, "LARGEST_FILE", 100)
    with pytest.raises(InputError, match="more than 100 bytes"):
        read_questions(path, tuple(ROW))
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(InputError, match="FIFO"):
        read_questions(path, tuple(ROW))


def test_a_directory_is_checked_before_anything_is_asked(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not a directory"):
        TaskData(tmp_path / "none", ["piqa"])
    with pytest.raises(InputError, match=r"has no piqa\.jsonl; it holds no task"):
        TaskData(tmp_path, ["piqa"])
    lines(tmp_path / "piqa.jsonl", ROW)
    with pytest.raises(InputError, match=r"no form for the task .pica."):
        TaskData(tmp_path, ["pica"])
    with pytest.raises(InputError, match=r"has no copa\.jsonl; name what it holds with --tasks: piqa"):
        TaskData(tmp_path, ["copa"])
    first = TaskData(tmp_path, ["piqa"]).fingerprint()
    lines(tmp_path / "piqa.jsonl", ROW | {"label": 1})
    assert TaskData(tmp_path, ["piqa"]).fingerprint() != first
