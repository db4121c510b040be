"""Let a check pass, with a reason, when the adapter declares it unsupported."""

from collections.abc import Callable
from functools import wraps

from shapcut.testing.case import Case


def needs_removal(check: Callable[[Case], str]) -> Callable[[Case], str]:
    """Skip a removal check, with the reason, for models without removable players."""

    @wraps(check)
    def chosen(case: Case) -> str:
        return f"nothing can be removed: {case.no_removal}" if case.no_removal else check(case)

    return chosen
