"""The conformance kit: what every adapter promises, as named checks on tiny offline models."""

from shapcut.testing.case import Case, case, cases
from shapcut.testing.comparison import ConformanceError
from shapcut.testing.kit import CHECKS, CheckResult, assert_adapter, check_adapter, run_check

__all__ = [
    "CHECKS",
    "Case",
    "CheckResult",
    "ConformanceError",
    "assert_adapter",
    "case",
    "cases",
    "check_adapter",
    "run_check",
]
