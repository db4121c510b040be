"""Texts, recipes and plans made to harm: each is refused in one line, before any work."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


def content(data: bytes) -> Callable[[Path], object]:
    return lambda file: file.write_bytes(data)


def zero(file: Path) -> None:
    file.symlink_to("/dev/zero")


NESTED = b"[" * 100_000

TEXTS: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "a device": ("text.txt", zero, "a device, a FIFO or a socket"),
    "a FIFO": ("text.jsonl", os.mkfifo, "a device, a FIFO or a socket"),
    "half a surrogate pair": ("text.jsonl", content(b'{"text": "x\\ud800y"}\n'), "half of a surrogate pair"),
    "nested": ("text.jsonl", content(NESTED), "line 1"),
    "a line without end": ("text.jsonl", content(b'"' + b"x" * (2**24 + 2**20) + b'"'), "is longer than"),
    "no UTF-8": ("text.txt", content(b"\xff\xfe" * 2**21), "not UTF-8"),
    "nothing": ("text.txt", content(b""), "is empty"),
}


@pytest.mark.parametrize(("name", "attack", "words"), TEXTS.values(), ids=TEXTS)
def test_a_text(
    name: str, attack: Callable[[Path], object], words: str, model: Path, tmp_path: Path, refuse: Any
) -> None:
    attack(tmp_path / name)
    assert words in refuse("score", model, "--run", tmp_path / "run", "--calibration", tmp_path / name)


RECIPES: dict[str, tuple[Callable[[Path], object], str]] = {
    "a device": (zero, "a device, a FIFO or a socket"),
    "a FIFO": (os.mkfifo, "a device, a FIFO or a socket"),
    "nested": (content(NESTED), "is not YAML"),
    "laughs": (content(b"a: &a [x, x]\nb: [*a, *a]\n"), "anchor or alias"),
    "merges": (content(b"a: &a {k: 1}\n<<: *a\n"), "anchor or alias"),
    "code": (content(b"remove: !!python/object/apply:os.getpid []\n"), "the tag"),
    "a key twice": (content(b"remove: 1\nremove: 2\n"), "there twice"),
    "a time as a number": (content(b"remove: 1:30\n"), "1:30"),
    "a number that looks octal": (content(b"remove: 017\n"), "--remove 17:"),
    "a gigabyte": (lambda file: os.truncate(os.open(file, os.O_CREAT | os.O_WRONLY), 2**30), "more than"),
}


@pytest.mark.parametrize(("attack", "words"), RECIPES.values(), ids=RECIPES)
def test_a_recipe(
    attack: Callable[[Path], object], words: str, model: Path, tmp_path: Path, refuse: Any
) -> None:
    attack(tmp_path / "recipe.yaml")
    line = refuse("prune", model, "--out", tmp_path / "out", "--recipe", tmp_path / "recipe.yaml")
    assert words in line


def plan(**fields: Any) -> Callable[[Path], object]:
    return content(json.dumps({"removed": [0], "kept": [1, 2, 3, 4, 5]} | fields).encode())


PLANS: dict[str, tuple[Callable[[Path], object], str]] = {
    "a device": (zero, "a device, a FIFO or a socket"),
    "a FIFO": (os.mkfifo, "a device, a FIFO or a socket"),
    "true as an index": (plan(removed=[True], kept=[0, 2, 3, 4, 5]), "removed.0"),
    "a fraction as an index": (plan(removed=[2.0], kept=[0, 1, 3, 4, 5]), "removed.0"),
    "a text as an index": (plan(removed=["0"]), "removed.0"),
    "a key twice": (content(b'{"removed": [0], "removed": [1], "kept": [0]}'), "there twice"),
    "an unknown key": (plan(evil=1), "evil"),
    "another model": (plan(model_fingerprint="0" * 64), "another model"),
    "nested": (content(NESTED), "nested too deeply"),
    "NaN": (content(b'{"removed": [NaN], "kept": [0]}'), "removed.0"),
}


@pytest.mark.parametrize(("attack", "words"), PLANS.values(), ids=PLANS)
def test_a_plan(
    attack: Callable[[Path], object], words: str, model: Path, tmp_path: Path, refuse: Any
) -> None:
    attack(tmp_path / "plan.json")
    assert words in refuse("apply", model, "--out", tmp_path / "out", "--plan", tmp_path / "plan.json")
