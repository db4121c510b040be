"""Checks of what an adapter says that it cannot do say so and pass."""

from collections.abc import Callable
from functools import wraps

from shapcut.testing.case import Case


def needs_removal(check: Callable[[Case], str]) -> Callable[[Case], str]:
    """A check of removal: not for models none of whose players can be removed."""

    @wraps(check)
    def chosen(case: Case) -> str:
        return f"nothing can be removed: {case.no_removal}" if case.no_removal else check(case)

    return chosen
