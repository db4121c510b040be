"""The report's rows on inference engines."""

from collections.abc import Sequence
from dataclasses import dataclass

from shapcut.contracts import ServingCheck


@dataclass(frozen=True, slots=True)
class ServedRow:
    """One check, as text.

    Attributes:
        engine: with its version, the number format, and of several results which.
        figures: tokens per second of reading and of writing, and megabytes: the original's and the cut one's.
        sentence: the verdict.
    """

    engine: str
    figures: tuple[str, str, str]
    sentence: str


def served_rows(checks: Sequence[ServingCheck]) -> list[ServedRow]:
    """One row for each check."""
    several = len({check.result for check in checks}) > 1
    return [_row(check, several=several) for check in checks]


def _row(check: ServingCheck, *, several: bool) -> ServedRow:
    words = (check.result if several else None, check.engine, check.version, check.dtype)
    before, after = check.original, check.cut
    return ServedRow(
        " ".join(word for word in words if word),
        (
            _pair(before.prompt_tokens_per_second, after.prompt_tokens_per_second),
            _pair(before.decode_tokens_per_second, after.decode_tokens_per_second),
            _pair(before.peak_memory_bytes, after.peak_memory_bytes, 1e6),
        ),
        check.sentence,
    )


def _pair(before: float | None, after: float | None, scale: float = 1.0) -> str:
    if before is None and after is None:
        return ""
    return " → ".join("?" if value is None else f"{value / scale:,.0f}" for value in (before, after))
