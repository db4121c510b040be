"""A run directory is held by one process at a time."""

import subprocess
import sys

import pytest

from shapcut.support.errors import InputError
from shapcut.support.run_directory import Run, open_run

SCRIPT = """
import sys
from pathlib import Path
from shapcut.support.errors import InputError
from shapcut.support.run_directory import open_run
try:
    with open_run(Path(sys.argv[1])):
        print("opened")
except InputError as error:
    print(error)
"""


def open_elsewhere(directory):
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(directory)], capture_output=True, text=True, check=True, timeout=60
    )
    return done.stdout.strip()


def test_another_process_is_refused_until_the_run_ends(tmp_path):
    directory = tmp_path / "deep" / "run"
    with open_run(directory) as run:
        assert run == Run(directory)
        assert open_elsewhere(directory) == f"--run {directory} is in use by another process"
    assert open_elsewhere(directory) == "opened"


def test_the_run_is_released_after_an_error(tmp_path):
    with pytest.raises(KeyError), open_run(tmp_path):
        raise KeyError
    with open_run(tmp_path), pytest.raises(InputError, match="in use"), open_run(tmp_path):
        pass


def test_a_file_is_no_run_directory(tmp_path):
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(InputError, match=r"--run .* cannot be written"), open_run(file):
        pass


def test_names_of_the_files(tmp_path):
    run = Run(tmp_path)
    files = [run.manifest, run.evaluations, run.contributions, run.plan, run.report]
    assert [file.name for file in files] == [
        "manifest.json",
        "evaluations.sqlite",
        "contributions.json",
        "plan.json",
        "report.html",
    ]
    assert {file.parent for file in files} == {tmp_path}
