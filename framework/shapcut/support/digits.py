"""Numbers beside each other, with as many digits as it takes to tell them apart."""

import re
from collections.abc import Sequence

_DIGITS = re.compile(r"\.(\d+)(?=[fg]\})")
_MOST_MORE = 6


def apart(numbers: Sequence[float | None], form: str, missing: str = "") -> list[str]:
    """Format numbers alike, with more digits where different numbers would look the same.

    Args:
        numbers: the numbers; None for a missing one.
        form: a format with a number of digits, such as ``{:,.2f}`` or ``{:.4g}``; one without, such as
            ``{:,}``, is used as it is.
        missing: what a missing number looks like.
    """
    known = [number for number in numbers if number is not None]
    for _ in range(_MOST_MORE):
        if len({form.format(number) for number in known}) == len(set(known)):
            break
        form = _DIGITS.sub(lambda found: f".{int(found[1]) + 1}", form)
    return [missing if number is None else form.format(number) for number in numbers]
