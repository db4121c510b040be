"""Questions of tasks in local files, asked as lm-evaluation-harness defines the tasks."""

import hashlib
import importlib.util
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, TypeAdapter

from shapcut.support.errors import InputError
from shapcut.support.files import require_regular
from shapcut.support.plain_json import parse_json
from shapcut.support.plain_yaml import load_plain_yaml
from shapcut.support.quiet import one_line
from shapcut.support.suggest import did_you_mean

ZERO_SHOT = "zero-shot"
"""The name that stands for the usual tasks."""

USUAL = (
    "piqa",
    "hellaswag",
    "winogrande",
    "arc_easy",
    "arc_challenge",
    "openbookqa",
    "boolq",
    "lambada_openai",
)
"""The tasks that `ZERO_SHOT` stands for."""

LARGEST_FILE = 2**26
"""Bytes of a file of questions; the largest of the usual tasks has a fifth of it."""

MOST_QUESTIONS = 100_000
_BOOLQ, _BOOLQ_PART = "boolq", "boolq_contrast"
_SUFFIX = ".jsonl"
_SPLIT = "test"


class TaskFile(BaseModel):
    """How a file of questions is asked.

    Attributes:
        folder: of the definition, below lm-eval's tasks.
        fields: that every question has.
        definition: lm-eval's name of the task; None: the file's own.
        prepared: whether the fields are already what the task's ``process_docs`` makes.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    folder: str
    fields: tuple[str, ...]
    definition: str | None = None
    prepared: bool = False


_FILES = TypeAdapter(dict[str, TaskFile])


@cache
def task_files() -> Mapping[str, TaskFile]:
    """The shipped definitions by the name of the task."""
    text = Path(__file__).with_name("zero_shot.yaml").read_text(encoding="utf-8")
    return _FILES.validate_python(load_plain_yaml(text))


def expanded(names: Sequence[str], directory: Path | None = None) -> tuple[str, ...]:
    """Names with `ZERO_SHOT` replaced by the tasks that it stands for, each once.

    A directory without the whole BoolQ may have a part of it, which goes by its own name.
    """
    usual = tuple(_BOOLQ_PART if name == _BOOLQ and _holds_part(directory) else name for name in USUAL)
    return tuple(dict.fromkeys(each for name in names for each in (usual if name == ZERO_SHOT else (name,))))


def _holds_part(directory: Path | None) -> bool:
    if directory is None or (directory / f"{_BOOLQ}{_SUFFIX}").exists():
        return False
    return (directory / f"{_BOOLQ_PART}{_SUFFIX}").exists()


class TaskData:
    """A directory with a file of questions for each task, read and checked.

    Args:
        directory: holds ``NAME.jsonl`` for each name.
        names: of tasks, without `ZERO_SHOT`.

    Raises:
        InputError: if a task is unknown, or a file is missing, too large or not of the task's fields.
    """

    def __init__(self, directory: Path, names: Sequence[str]) -> None:
        if not directory.is_dir():
            raise InputError(f"--task-data {directory} is not a directory")
        known = task_files()
        if unknown := [name for name in names if name not in known]:
            raise InputError(
                f"--task-data has no form for the task {unknown[0]!r}; {did_you_mean(unknown[0], known)}, "
                "or describe it in YAML with --task-path"
            )
        missing = [name for name in names if not (directory / f"{name}{_SUFFIX}").exists()]
        if missing:
            found = sorted(path.stem for path in directory.glob(f"*{_SUFFIX}") if path.stem in known)
            held = f"name what it holds with --tasks: {', '.join(found)}" if found else "it holds no task"
            raise InputError(f"--task-data {directory} has no {missing[0]}{_SUFFIX}; {held}")
        self._rows = {
            name: read_questions(directory / f"{name}{_SUFFIX}", known[name].fields) for name in names
        }

    def fingerprint(self) -> str:
        """A digest of all questions."""
        return hashlib.sha256(repr(sorted(self._rows.items())).encode()).hexdigest()

    def load(self, names: Sequence[str]) -> dict[str, Any]:
        """The tasks with these questions, as `lm_eval.tasks.TaskManager.load` gives them."""
        from lm_eval.tasks import TaskManager  # noqa: PLC0415 - optional, seconds to import

        root = Path(_required_origin()).parent / "tasks"
        folders = dict.fromkeys(str(root / task_files()[name].folder) for name in names)
        manager = TaskManager(include_path=list(folders), include_defaults=False)
        tasks = {}
        for name in names:
            group = {"group": ZERO_SHOT, "task": [self._overrides(name)]}
            (task,) = manager.load([group])["tasks"].values()
            task.set_config(key="task", value=name)
            tasks[name] = task
        return {"tasks": tasks, "groups": {}, "group_map": {}}

    def _overrides(self, name: str) -> dict[str, Any]:
        file, rows = task_files()[name], self._rows[name]

        def read(**_options: Any) -> dict[str, Any]:
            from datasets import Dataset  # noqa: PLC0415 - comes with lm_eval

            return {_SPLIT: Dataset.from_list(rows)}

        changed: dict[str, Any] = {"process_docs": None} if file.prepared else {}
        splits = {"training_split": None, "validation_split": None, "test_split": _SPLIT}
        return {"task": file.definition or name, "custom_dataset": read, **splits, **changed}


def read_questions(path: Path, fields: Sequence[str]) -> list[dict[str, Any]]:
    """The questions in a file of JSON lines, with these fields and no others.

    Raises:
        InputError: if the file is too large, or a line is no question.
    """
    require_regular(path)
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST_FILE + 1)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    if len(content) > LARGEST_FILE:
        raise InputError(f"{path} has more than {LARGEST_FILE:,} bytes; take a part of it")
    lines = [(number, line) for number, line in enumerate(content.split(b"\n"), start=1) if line.strip()]
    if not lines or len(lines) > MOST_QUESTIONS:
        raise InputError(f"{path} has {len(lines):,} questions; 1 to {MOST_QUESTIONS:,} can be asked")
    return [_question(path, number, line, fields) for number, line in lines]


def _question(path: Path, number: int, line: bytes, fields: Sequence[str]) -> dict[str, Any]:
    try:
        found = parse_json(line)
    except ValueError as error:
        raise InputError(
            f"{path}, line {number}: {one_line(error)}; one JSON object a line is read"
        ) from error
    missing = [name for name in fields if not isinstance(found, dict) or name not in found]
    if missing:
        raise InputError(
            f"{path}, line {number}: no field {missing[0]!r}; a question has {', '.join(fields)}"
        )
    return {name: found[name] for name in fields}


def _required_origin() -> str:
    spec = importlib.util.find_spec("lm_eval")
    if spec is None or spec.origin is None:
        raise InputError("--tasks needs lm-evaluation-harness: pip install 'shapcut[eval]'")
    return spec.origin
