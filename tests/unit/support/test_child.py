"""A child ends with the process that started it, and nothing else works where one is alive."""

import fcntl
import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from shapcut.support.child import CHILD_LOCK, has_child, run_child
from shapcut.support.errors import InputError, ShapcutError
from shapcut.support.run_directory import open_run, require_run_directory

CHILD = """
import os, signal, sys
print(os.getpid(), *sys.argv, flush=True)
if sys.argv[1] == "wait":
    signal.pause()
sys.exit(int(sys.argv[1]))
"""

DRIVER = """
import signal, sys
from pathlib import Path
from shapcut.support.child import run_child
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # ignored under nohup
run_child("the_child", ["wait"], Path(sys.argv[1]), output=sys.stdout.buffer)
"""


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory of a step's work in a run."""
    (tmp_path / "the_child.py").write_text(CHILD)
    paths = [str(tmp_path), *(path for path in sys.path if path)]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
    with open_run(tmp_path / "run"):
        directory = tmp_path / "run" / "steps" / "1-gptq" / "work"
        directory.mkdir(parents=True)
    return directory


def test_a_child_is_run_with_its_arguments_and_status(work: Path, tmp_path: Path) -> None:
    with (tmp_path / "log").open("wb") as log:
        assert run_child("the_child", ["3", "x"], work, output=log) == 3
    assert (tmp_path / "log").read_text().split()[1:] == [str(tmp_path / "the_child.py"), "3", "x"]
    assert not has_child(work)


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's parent-death signal is Linux's")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGHUP])
def test_a_child_ends_with_its_parent(work: Path, number: signal.Signals) -> None:
    with subprocess.Popen([sys.executable, "-c", DRIVER, str(work)], stdout=subprocess.PIPE) as driver:
        assert driver.stdout is not None
        child = os.pidfd_open(int(driver.stdout.readline().split()[0]))
        assert has_child(work)
        with pytest.raises(
            InputError, match=r"in use by a process of an earlier start, in steps/1-gptq/work"
        ):
            require_run_directory(work.parents[2])
        driver.send_signal(number)
        ended = select.select([child], [], [], 60)[0]
        os.close(child)
        driver.kill()
        assert ended
    assert not has_child(work)
    require_run_directory(work.parents[2])


def test_a_child_does_not_start_beside_another(work: Path, tmp_path: Path) -> None:
    with (work / CHILD_LOCK).open("w") as held, (tmp_path / "log").open("wb") as log:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(ShapcutError, match="still works in"):
            run_child("the_child", ["0"], work, output=log)
    assert (tmp_path / "log").read_bytes() == b""


def test_a_child_whose_parent_has_gone_does_not_begin(work: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "shapcut.support.child", "1", "the_child", "0"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "has ended" in done.stderr
    assert done.stdout == ""
