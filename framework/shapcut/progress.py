"""What a long run tells a person while it works: a bar on a terminal, now and then a line elsewhere."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

_LINE_EVERY_SECONDS = 10.0


class Reporter(Protocol):
    """Where a run says what it does."""

    def say(self, text: str) -> None:
        """One line of news."""

    @contextmanager
    def counting(self, what: str, total: int) -> Iterator["Counter"]:
        """A task of ``total`` parts."""


class Counter(Protocol):
    """Counts the finished parts of a task."""

    def __call__(self, done: int) -> None:
        """Say how many parts are done in all."""


class Silent:
    """Says nothing."""

    def say(self, text: str) -> None:
        """Nothing."""

    @contextmanager
    def counting(self, what: str, total: int) -> Iterator[Counter]:  # noqa: ARG002 - silent
        """Nothing."""
        yield lambda done: None  # noqa: ARG005 - silent


class ConsoleReporter:
    """Reports on stderr: live bars on a terminal, plain lines at most every ten seconds elsewhere."""

    def __init__(self) -> None:
        self.console = Console(file=sys.stderr)

    def say(self, text: str) -> None:
        """Print one line."""
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    @contextmanager
    def counting(self, what: str, total: int) -> Iterator[Counter]:
        """A bar with the time left, or lines."""
        if not self.console.is_terminal:
            yield self._lines(what, total)
            return
        columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
        with Progress(*columns, console=self.console, transient=True) as bar:
            task = bar.add_task(what, total=total)
            yield lambda done: bar.update(task, completed=min(done, total))

    def _lines(self, what: str, total: int) -> Counter:
        last = time.monotonic()

        def count(done: int) -> None:
            nonlocal last
            if time.monotonic() - last >= _LINE_EVERY_SECONDS:
                last = time.monotonic()
                self.say(f"{what}: {done} of at most {total}")

        return count
