"""Progress of long runs: bars on a terminal, occasional lines elsewhere."""

import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import timedelta
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID, TextColumn
from rich.text import Text

_LINE_EVERY_SECONDS = 10.0


class Reporter(Protocol):
    """Receives the progress of a run."""

    def say(self, text: str) -> None:
        """Report one line."""

    def counting(self, what: str, total: int) -> AbstractContextManager["Counter"]:
        """A task of ``total`` parts; may be nested."""

    def working(self, what: str) -> AbstractContextManager[None]:
        """A task without known progress; may hold others."""


class Counter(Protocol):
    """Counts the finished parts of a task."""

    def __call__(self, done: int) -> None:
        """Report the total number of finished parts."""


class Silent:
    """Reports nothing."""

    def say(self, text: str) -> None:
        """Nothing."""

    @contextmanager
    def counting(self, what: str, total: int) -> Iterator[Counter]:  # noqa: ARG002 - silent
        """Nothing."""
        yield lambda done: None  # noqa: ARG005 - silent

    @contextmanager
    def working(self, what: str) -> Iterator[None]:  # noqa: ARG002 - silent
        """Nothing."""
        yield


class ConsoleReporter:
    """Reports on stderr: live bars on a terminal, plain lines at most every ten seconds elsewhere.

    The stream itself decides whether it is a terminal: a variable that forces colours into a file must not
    produce bars there.
    """

    def __init__(self) -> None:
        self.console = Console(file=sys.stderr)
        self._bars: Progress | None = None

    def say(self, text: str) -> None:
        """Print one line."""
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    @contextmanager
    def counting(self, what: str, total: int) -> Iterator[Counter]:
        """Show a bar with the time left, or lines."""
        if not self._live():
            yield self._lines(what, total)
            return
        with self._bar(what, total) as (bars, task):
            yield lambda done: bars.update(task, completed=min(done, total))

    @contextmanager
    def working(self, what: str) -> Iterator[None]:
        """Print a line, and on a terminal the elapsed time."""
        self.say(what)
        if not self._live():
            yield
            return
        with self._bar(what, None):
            yield

    def _live(self) -> bool:
        return self.console.is_interactive and self.console.file.isatty()

    @contextmanager
    def _bar(self, what: str, total: int | None) -> Iterator[tuple[Progress, TaskID]]:
        """A bar below the existing ones."""
        if self._bars is None:
            bars = Progress(
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                _Amount(),
                _Time(),
                console=self.console,
                transient=True,
            )
            with bars:
                self._bars = bars
                try:
                    yield bars, bars.add_task(what, total=total)
                finally:
                    self._bars = None
            return
        task = self._bars.add_task(what, total=total)
        try:
            yield self._bars, task
        finally:
            self._bars.remove_task(task)

    def _lines(self, what: str, total: int) -> Counter:
        last = time.monotonic()
        first: tuple[float, int] | None = None

        def count(done: int) -> None:
            nonlocal last, first
            now = time.monotonic()
            first = first or (now, done)
            if now - last >= _LINE_EVERY_SECONDS:
                last = now
                self.say(f"{what}: {done} of at most {total}{_left(first, (now, done), total)}")

        return count


def _left(first: tuple[float, int], now: tuple[float, int], total: int) -> str:
    """The remaining time at the pace between two counts, each a (time, number) pair."""
    seconds, done = now[0] - first[0], now[1] - first[1]
    if done <= 0:
        return ""
    return f", {_clock(seconds / done * max(total - now[1], 0))} left"


class _Amount(ProgressColumn):
    """``3/40``, or empty without a total."""

    def render(self, task: Task) -> Text:
        return Text("" if task.total is None else f"{task.completed:.0f}/{task.total:.0f}")


class _Time(ProgressColumn):
    """The time left; the elapsed time until that is known."""

    max_refresh = 0.5

    def render(self, task: Task) -> Text:
        left = task.time_remaining
        return Text(_clock(task.elapsed or 0.0) if left is None else f"{_clock(left)} left")


def _clock(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))
