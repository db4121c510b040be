"""What a run says: lines on a pipe, a bar on a terminal."""

import io

import pytest
from rich.console import Console

from shapcut.support import progress
from shapcut.support.progress import ConsoleReporter, Silent


@pytest.fixture
def clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


@pytest.fixture(autouse=True)
def ordinary_terminal_settings(monkeypatch):
    for name in ("FORCE_COLOR", "NO_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)


def test_lines_at_most_every_ten_seconds_on_stderr(capsys, clock):
    with ConsoleReporter().counting("measuring", 40) as count:
        for done, second in enumerate([1.0, 9.9, 10.0, 15.0, 19.9, 20.0, 45.0]):
            clock[0] = second
            count(done)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines() == [
        "measuring: 2 of at most 40, 0:02:51 left",  # 2 in 9 seconds, after the first count
        "measuring: 5 of at most 40, 0:02:13 left",
        "measuring: 6 of at most 40, 0:04:09 left",
    ]


def test_a_long_line_with_brackets_is_printed_as_it_is(capsys):
    text = "removing [1, 2] [bold]of[/bold] " + "x" * 200
    ConsoleReporter().say(text)
    assert capsys.readouterr().err == text + "\n"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def on_screen(screen: io.StringIO) -> ConsoleReporter:
    reporter = ConsoleReporter()
    reporter.console = Console(file=screen, force_terminal=True, width=100, color_system=None)
    return reporter


def test_a_bar_on_a_terminal():
    screen = Terminal()
    with on_screen(screen).counting("measuring", 4) as count:
        count(3)
        count(9)
    assert "measuring" in screen.getvalue()
    assert "4/4" in screen.getvalue()


def test_tasks_inside_a_task_have_bars_below_it():
    screen = Terminal()
    reporter = on_screen(screen)
    with reporter.working("step heal"):
        for what in ("healing", "testing"):
            with reporter.counting(what, 7) as count:
                count(5)
    last = screen.getvalue()
    assert last.count("step heal\n") == 1  # the line that stays
    assert "healing" in last
    assert "testing" in last
    assert "0/7" in last


def test_forced_colours_bring_no_bars_into_a_file(capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    reporter = ConsoleReporter()
    with reporter.working("writing"), reporter.counting("measuring", 4) as count:
        count(2)
    assert capsys.readouterr().err == "writing\n"


def test_a_task_of_unknown_length_is_one_line_elsewhere(capsys):
    with ConsoleReporter().working("writing [1]"):
        pass
    assert capsys.readouterr().err == "writing [1]\n"


def test_silent_says_nothing(capsys):
    silent = Silent()
    silent.say("news")
    with silent.working("writing"), silent.counting("measuring", 3) as count:
        count(2)
    captured = capsys.readouterr()
    assert captured.out + captured.err == ""
