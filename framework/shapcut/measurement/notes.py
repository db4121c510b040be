"""Notes on figures that could not be measured."""

import logging
from collections.abc import Callable
from typing import TypeVar

from shapcut.support.quiet import one_line

_LOG = logging.getLogger(__name__)

ResultT = TypeVar("ResultT")


class Notes:
    """Collects one line for each figure that could not be measured.

    Attributes:
        lines: the notes, in order.
    """

    def __init__(self) -> None:
        self.lines: list[str] = []

    def attempt(self, missing: str, measure: Callable[[], ResultT]) -> ResultT | None:
        """The result of ``measure``; if it raises, None, and a note of ``missing`` with the reason."""
        try:
            return measure()
        except Exception as error:  # noqa: BLE001 - a model's own code may raise anything
            _LOG.debug("%s: %s: %s", missing, type(error).__name__, error)
            self.lines.append(f"{missing}: {one_line(error)}")
        return None
