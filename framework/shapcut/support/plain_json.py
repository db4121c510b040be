"""JSON files that can mean only one thing, read up to a bound."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from shapcut.support.files import require_regular

LARGEST_JSON = 2**27
"""Bytes; the largest tokenizers have a quarter of it."""


def read_json(path: Path, *, largest: int = LARGEST_JSON) -> Any:
    """The content of a JSON file, in which no key comes twice.

    Raises:
        InputError: if it is a device, a FIFO or a socket.
        OSError: if it cannot be read.
        ValueError: in one line, if it is too large, no UTF-8, no JSON or nested too deeply.
    """
    require_regular(path)
    with path.open("rb") as file:
        content = file.read(largest + 1)
    if len(content) > largest:
        raise ValueError(f"it has more than {largest:,} bytes")
    return parse_json(content)


def parse_json(content: str | bytes) -> Any:
    """The content of a JSON text, in which no key comes twice.

    Raises:
        ValueError: as `read_json`.
    """
    try:
        return json.loads(content, object_pairs_hook=_distinct)
    except RecursionError as error:
        raise ValueError("maximum recursion depth exceeded: it is nested too deeply") from error


def _distinct(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for number, key in enumerate(keys) if key in keys[:number])
        raise ValueError(f"the key {twice[:100]!r} is there twice")
    return content
