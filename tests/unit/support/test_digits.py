"""Numbers that differ look different; equal ones look equal."""

import pytest

from shapcut.support.digits import apart


@pytest.mark.parametrize(
    ("numbers", "form", "shown"),
    [
        ([1.0, 2.0], "{:.2f}", ["1.00", "2.00"]),
        ([-0.009341, -0.009339], "{:+.3g}", ["-0.009341", "-0.009339"]),
        ([20.1612, 20.1634], "{:,.2f}", ["20.161", "20.163"]),
        ([5.0, 5.0], "{:.2f}", ["5.00", "5.00"]),
        ([1.0, None, 1.0 + 1e-30], "{:.1f}", ["1.0", "", "1.0"]),
        ([1000, 2000], "{:,}", ["1,000", "2,000"]),
        ([0.0, 1e-12], "{:.1f}", ["0.0000000", "0.0000000"]),
    ],
)
def test_digits_are_added_until_numbers_differ(
    numbers: list[float | None], form: str, shown: list[str]
) -> None:
    assert apart(numbers, form) == shown
