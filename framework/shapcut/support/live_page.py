"""A page in the run directory that shows how far a run is, for a browser that reads it again and again."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from html import escape
from pathlib import Path

from shapcut.support.files import write_text_atomically
from shapcut.support.progress import Counter, Reporter

_REFRESH_SECONDS = 5
_WRITE_EVERY_SECONDS = 2.0
_LINES = 40
_STYLE = (
    "body{font:16px/1.5 system-ui;margin:2rem auto;max-width:50rem;padding:0 1rem;color-scheme:light dark;"
    "overflow-wrap:anywhere}h1{font-size:1.5rem;line-height:1.25}"
)


class LivePage:
    """Passes everything on to another reporter, and keeps a page of it.

    The page is replaced when a part begins or ends, and else at most every two seconds. `finish` writes it
    for the last time, without the refresh.

    Args:
        path: the page, in an existing directory.
        reporter: the other reporter.
        title: of the page.
    """

    def __init__(self, path: Path, reporter: Reporter, title: str) -> None:
        self._path = path
        self._reporter = reporter
        self._title = title
        self._said: list[str] = []
        self._parts: list[list[str]] = []
        self._written = 0.0
        self._write("running")

    def say(self, text: str) -> None:
        """Pass one line on, and show it."""
        self._reporter.say(text)
        self._said = [*self._said, text][-_LINES:]
        self._write("running")

    @contextmanager
    def counting(self, what: str, total: int) -> Iterator[Counter]:
        """Show a part with its count."""
        with self._part(what) as part, self._reporter.counting(what, total) as count:

            def both(done: int) -> None:
                count(done)
                part[1] = f"{done:,} of at most {total:,}"
                if time.monotonic() - self._written >= _WRITE_EVERY_SECONDS:
                    self._write("running")

            yield both

    @contextmanager
    def working(self, what: str) -> Iterator[None]:
        """Show a part."""
        with self._part(what), self._reporter.working(what):
            yield

    def finish(self, status: str) -> None:
        """Write the page for the last time."""
        self._parts.clear()
        self._write(status)

    @contextmanager
    def _part(self, what: str) -> Iterator[list[str]]:
        part = [what, ""]
        self._parts.append(part)
        self._write("running")
        try:
            yield part
        finally:
            if part in self._parts:
                self._parts.remove(part)
            self._write("running")

    def _write(self, status: str) -> None:
        self._written = time.monotonic()
        refresh = f'<meta http-equiv="refresh" content="{_REFRESH_SECONDS}">' if status == "running" else ""
        parts = "".join(
            f"<li>{escape(what)} <strong>{escape(done)}</strong></li>" for what, done in self._parts
        )
        said = "".join(f"<li>{escape(line)}</li>" for line in self._said)
        text = (
            f'<!doctype html><html lang="en"><head><meta charset="utf-8">'
            f'<meta name="viewport" content="width=device-width, initial-scale=1">{refresh}'
            f"<title>{escape(self._title)}: {escape(status)}</title><style>{_STYLE}</style></head><body>"
            f"<h1>{escape(self._title)}</h1><p>{escape(status)}</p><ul>{parts}</ul>"
            f"<ol>{said}</ol></body></html>\n"
        )
        write_text_atomically(self._path, text)


@contextmanager
def live_page(path: Path, reporter: Reporter, title: str) -> Iterator[LivePage]:
    """A page for the time of a ``with`` block; it ends as ``done`` or ``stopped``."""
    page = LivePage(path, reporter, title)
    try:
        yield page
    except BaseException:
        page.finish("stopped")
        raise
    page.finish("done")
