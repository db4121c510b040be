"""What a run says: lines on a pipe, a bar on a terminal."""

import io

import pytest
from rich.console import Console

from shapcut import progress
from shapcut.progress import ConsoleReporter, Silent


@pytest.fixture
def clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


@pytest.fixture(autouse=True)
def ordinary_terminal_settings(monkeypatch):
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)


def test_lines_at_most_every_ten_seconds_on_stderr(capsys, clock):
    with ConsoleReporter().counting("measuring", 40) as count:
        for done, second in enumerate([1.0, 9.9, 10.0, 15.0, 19.9, 20.0, 45.0]):
            clock[0] = second
            count(done)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines() == [f"measuring: {done} of at most 40" for done in (2, 5, 6)]


def test_a_long_line_with_brackets_is_printed_as_it_is(capsys):
    text = "removing [1, 2] [bold]of[/bold] " + "x" * 200
    ConsoleReporter().say(text)
    assert capsys.readouterr().err == text + "\n"


def test_a_bar_on_a_terminal():
    screen = io.StringIO()
    reporter = ConsoleReporter()
    reporter.console = Console(file=screen, force_terminal=True, width=100, color_system=None)
    with reporter.counting("measuring", 4) as count:
        count(3)
        count(9)
    assert "measuring" in screen.getvalue()
    assert "4/4" in screen.getvalue()


def test_silent_says_nothing(capsys):
    silent = Silent()
    silent.say("news")
    with silent.counting("measuring", 3) as count:
        count(2)
    captured = capsys.readouterr()
    assert captured.out + captured.err == ""
