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


def test_somebody_elses_directory_is_refused_and_left_as_it_is(tmp_path):
    notes = tmp_path / "steps" / "my-notes" / "thesis.txt"
    notes.parent.mkdir(parents=True)
    notes.write_text("years of work")
    with pytest.raises(InputError, match=r"is not a run directory \(it holds steps\)"), open_run(tmp_path):
        pass
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["my-notes", "steps", "thesis.txt"]


def test_a_run_directory_is_known_by_its_marker(tmp_path):
    with open_run(tmp_path / "run") as run:
        run.plan.write_text("{}")
    with open_run(tmp_path / "run"):
        pass
    (tmp_path / "run" / ".shapcut-run").unlink()
    with pytest.raises(InputError, match=r"not a run directory"), open_run(tmp_path / "run"):
        pass


def test_a_start_that_was_killed_before_it_left_the_marker_is_no_obstacle(tmp_path):
    for name in (".lock", "..shapcut-run.x1y2"):
        (tmp_path / name).touch()
    with open_run(tmp_path):
        pass


def test_a_link_in_a_run_directory_is_refused(tmp_path):
    (tmp_path / "victim.sqlite").write_text("data")
    with open_run(tmp_path / "run") as run:
        run.evaluations.symlink_to(tmp_path / "victim.sqlite")
    with pytest.raises(InputError, match=r"evaluations\.sqlite is a link"), open_run(tmp_path / "run"):
        pass
