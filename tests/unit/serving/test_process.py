"""Engines in processes of their own, with stand-ins for engines: small scripts."""

import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import ClassVar

import pytest

from shapcut.serving.answer import Answer, Refusal, Request
from shapcut.serving.engine import Engine
from shapcut.serving.process import READER, Interpreter, run_bounded
from shapcut.support.errors import InputError, ShapcutError

REQUEST = Request(model="somewhere", vocabulary=8, prompts=((1, 2),), timed_prompt=(1, 2))
ANSWER = '{"version": "1", "prompts": []}'


class StandIn(Engine):
    """An engine whose script is what a test wrote."""

    package: ClassVar[str] = "json"
    installation: ClassVar[str] = "nothing"

    def __init__(self, place: Path, code: str) -> None:
        self._script = place / "stand_in.py"
        self._script.write_text(code, encoding="utf-8")

    @property
    def script(self) -> Path:
        return self._script


def ask(place: Path, code: str, timeout: float = 60.0) -> Answer | Refusal:
    return Interpreter(sys.executable).ask(StandIn(place, code), REQUEST, timeout)


def test_the_script_gets_the_request_and_its_answer_comes_back_with_its_memory(tmp_path: Path):
    found = ask(tmp_path, "def answer(request):\n    return {'version': request['model'], 'prompts': []}\n")
    assert isinstance(found, Answer)
    assert found.version == "somewhere"
    assert found.peak_memory_bytes is not None
    assert found.peak_memory_bytes > 2**20


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a process does not inherit a peak")
def test_the_memory_of_this_process_is_not_the_engines(tmp_path: Path):
    large = bytes(2**28)
    found = ask(tmp_path, "def answer(request):\n    return {'version': '1', 'prompts': []}\n")
    assert isinstance(found, Answer)
    assert found.peak_memory_bytes is not None
    assert found.peak_memory_bytes < len(large)


def test_whatever_the_engine_raises_is_a_refusal_on_one_line(tmp_path: Path):
    code = "def answer(request):\n    raise RuntimeError('no heads\\n  of 16\\n')\n"
    assert ask(tmp_path, code) == Refusal(refusal="RuntimeError: no heads of 16")


def test_an_engine_that_cannot_be_imported_or_leaves_is_a_refusal(tmp_path: Path):
    refusal = ask(tmp_path, "import no_such_engine\n")
    assert isinstance(refusal, Refusal)
    assert "no_such_engine" in refusal.refusal
    leaving = ask(tmp_path, "import sys\ndef answer(request):\n    sys.exit('gone')\n")
    assert leaving == Refusal(refusal="SystemExit: gone")


def test_a_crash_is_a_refusal_with_the_last_line(tmp_path: Path):
    code = "import os\ndef answer(request):\n    print('GGML_ASSERT(n > 0)', flush=True)\n    os.abort()\n"
    refusal = ask(tmp_path, code)
    assert isinstance(refusal, Refusal)
    assert refusal.refusal.startswith("its process ended with status -6")
    assert "GGML_ASSERT(n > 0)" in refusal.refusal


def test_an_answer_of_another_shape_is_an_error_that_names_the_script(tmp_path: Path):
    with pytest.raises(ShapcutError, match=r"stand_in\.py gives no valid answer"):
        ask(tmp_path, "def answer(request):\n    return {'version': 1}\n")


def test_the_script_sees_neither_the_other_workers_nor_a_folder_that_lies_where_it_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "vllm").mkdir()
    monkeypatch.chdir(tmp_path)
    code = (
        "import importlib.util as u\n"
        "def answer(request):\n"
        "    seen = [name for name in ('vllm', 'vllm_engine') if u.find_spec(name)]\n"
        "    return {'version': repr(seen), 'prompts': []}\n"
    )
    found = ask(tmp_path, code)
    assert isinstance(found, Answer)
    assert found.version == "[]"


def test_another_python_does_not_get_this_ones_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PYTHONPATH", "/a/place")
    code = (
        "import os\ndef answer(request):\n"
        "    return {'version': os.environ.get('PYTHONPATH', ''), 'prompts': []}\n"
    )
    engine = StandIn(tmp_path, code)
    for interpreter, expected in ((Interpreter(sys.executable), ""), (Interpreter(), "/a/place")):
        found = interpreter.ask(engine, REQUEST, 60.0)
        assert isinstance(found, Answer)
        assert found.version == expected


def test_a_missing_engine_is_one_line_with_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    class Missing(StandIn):
        package = "no_such_engine"
        installation = "pip install it"

    (tmp_path / "no_such_engine").mkdir()  # a folder is no package
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        InputError, match="has no no_such_engine, which the engine mine needs: pip install it"
    ):
        Interpreter(sys.executable).require("mine", Missing(tmp_path, ""))
    Interpreter(sys.executable).require("mine", StandIn(tmp_path, ""))


@pytest.mark.parametrize("python", ["no-such-python", "false"])
def test_a_python_that_is_none_is_refused(tmp_path: Path, python: str):
    with pytest.raises(InputError, match=f"--python {python}"):
        Interpreter(python).require("mine", StandIn(tmp_path, ""))


def test_a_late_engine_is_ended_with_what_it_started(tmp_path: Path):
    started = tmp_path / "started"
    code = (
        "import pathlib, subprocess, time\n"
        "def answer(request):\n"
        "    child = subprocess.Popen(['sleep', '600'])\n"
        f"    pathlib.Path({str(started)!r}).write_text(str(child.pid))\n"
        "    time.sleep(600)\n"
    )
    with pytest.raises(ShapcutError, match="has not answered within 5 s on somewhere"):
        ask(tmp_path, code, timeout=5.0)
    assert_ended(int(started.read_text(encoding="utf-8")))


def test_an_interruption_ends_the_process(tmp_path: Path):
    started = tmp_path / "started"
    command = ["sh", "-c", f"echo $$ > {started}; exec sleep 600"]

    def interrupt() -> None:
        wait_for(lambda: started.exists() and started.read_text(encoding="utf-8").endswith("\n"))
        wait_for(lambda: any(thread.name == READER for thread in threading.enumerate()))
        os.kill(os.getpid(), signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it
    try:
        threading.Thread(target=interrupt).start()
        with pytest.raises(KeyboardInterrupt):
            run_bounded(command, dict(os.environ), 60.0, "late")
    finally:
        signal.signal(signal.SIGINT, before)
    assert_ended(int(started.read_text(encoding="utf-8")))


def test_endless_output_is_not_kept():
    code = "import sys\nfor _ in range(3000): print('x' * 1000)\nprint('the end')"
    status, last = run_bounded([sys.executable, "-c", code], dict(os.environ), 60.0, "late")
    assert (status, last) == (0, "the end")


def wait_for(condition) -> None:
    """Let other processes go on until something holds, a minute at most."""
    end = time.monotonic() + 60.0
    while not condition() and time.monotonic() < end:
        os.sched_yield()
    assert condition()


def assert_ended(process: int) -> None:
    def gone() -> bool:
        try:
            state = Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(") ")[2][0]
        except FileNotFoundError:
            return True
        return state in "ZX"

    wait_for(gone)
