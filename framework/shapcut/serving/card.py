"""The checks in a model card."""

import re
from collections.abc import Sequence

from shapcut.serving.record import ServingCheck, Side

_BEGIN, _END = "<!-- shapcut serve-check -->", "<!-- end of shapcut serve-check -->"
_SECTION = re.compile(rf"\n*{re.escape(_BEGIN)}.*?{re.escape(_END)}\n?", re.DOTALL)
_MARKUP = re.compile(r"([\\`*_{}\[\]<>#|~!])")


def with_serving(card: str, checks: Sequence[ServingCheck]) -> str:
    """A model card with the checks at its end, in place of earlier ones."""
    before = _SECTION.sub("\n", card).rstrip("\n")
    rows = "\n".join(_row(check) for check in checks)
    return f"""{before}

{_BEGIN}
## In inference engines

The original → this model, checked with `shapcut serve-check` on one machine, not comparable with others:

| engine | reading, tokens/s | writing, tokens/s | memory, MB | against transformers |
|---|---|---|---|---|
{rows}
{_END}
"""


def _row(check: ServingCheck) -> str:
    sides = (check.original, check.cut)
    cells = [
        " ".join(filter(None, (check.engine, check.version, check.dtype))),
        _pair(*(side.prompt_tokens_per_second for side in sides)),
        _pair(*(side.decode_tokens_per_second for side in sides)),
        _pair(*(_megabytes(side) for side in sides)),
        check.sentence,
    ]
    return f"| {' | '.join(map(_text, cells))} |"


def _text(value: str) -> str:
    """One line of escaped Markdown."""
    return _MARKUP.sub(r"\\\1", " ".join(value.split()))


def _megabytes(side: Side) -> float | None:
    return None if side.peak_memory_bytes is None else side.peak_memory_bytes / 1e6


def _pair(before: float | None, after: float | None) -> str:
    shown = ["?" if value is None else f"{value:,.0f}" for value in (before, after)]
    return "" if before is None and after is None else " → ".join(shown)
