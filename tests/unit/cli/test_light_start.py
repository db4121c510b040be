"""What is answered without a model loads no library that is slow to import."""

import ast
import gc
import os
import subprocess
import sys

import pytest

HEAVY = ("torch", "transformers", "scipy", "numpy", "pydantic", "rich", "yaml", "psutil", "filelock")
PROGRAM = f"""
import sys
from shapcut.cli.main import run
try:
    run(sys.argv[1:])
finally:
    print("loaded:", *(name for name in {HEAVY} if name in sys.modules), file=sys.stderr)
"""


def loaded_by(*arguments: str, **environment: str) -> str:
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    last = result.stderr.splitlines()[-1]
    assert last.startswith("loaded:"), result.stderr
    return last.removeprefix("loaded:").strip()


@pytest.mark.parametrize(
    "arguments",
    [
        ("--version",),
        ("--help",),
        ("prune", "--help"),
        ("prune", "MODEL", "--rtio", "0.1"),
        ("prun",),
    ],
    ids=" ".join,
)
def test_an_answer_that_needs_no_model_loads_nothing_heavy(arguments: tuple[str, ...]) -> None:
    assert loaded_by(*arguments) == ""


def test_a_completion_loads_nothing_heavy() -> None:
    words = {"COMP_WORDS": "shapcut prune --estimator s", "COMP_CWORD": "3"}
    assert loaded_by(_SHAPCUT_COMPLETE="bash_complete", **words) == ""


def test_the_check_sees_what_is_loaded() -> None:
    assert "pydantic" in loaded_by("report", "no-such-run").split()


def test_the_collector_does_not_go_through_each_library_again_and_again() -> None:
    said = "import atexit, gc; atexit.register(lambda: print(gc.get_threshold())); "
    command = [sys.executable, "-c", said + "from shapcut.cli import main; main(['--version'])"]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    youngest, *older = ast.literal_eval(result.stdout.splitlines()[-1])
    assert youngest >= 10_000
    assert older == list(gc.get_threshold()[1:])
