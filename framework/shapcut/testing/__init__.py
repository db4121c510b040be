"""The conformance kit: every guarantee of an adapter as a named check on tiny offline models."""

from shapcut.testing.case import Case, cases, cases_of
from shapcut.testing.comparison import ConformanceError
from shapcut.testing.kit import CHECKS, CheckResult, assert_adapter, check_adapter, run_check

__all__ = [
    "CHECKS",
    "Case",
    "CheckResult",
    "ConformanceError",
    "assert_adapter",
    "cases",
    "cases_of",
    "check_adapter",
    "run_check",
]
