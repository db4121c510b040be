"""A limit of the generation state: a size after a number of tokens."""

import re
from typing import NamedTuple

from pydantic import ByteSize, TypeAdapter

_LIMIT = re.compile(r"\s*([0-9.]{1,15} ?[A-Za-z]*)\s*@\s*([1-9][0-9]{0,8})\s*")


class CacheLimit(NamedTuple):
    """Bytes of the generation state of one sequence, after ``length`` tokens."""

    size: int
    length: int


def cache_limit(text: str) -> CacheLimit:
    """The limit of a text such as ``64MB@4096``.

    Raises:
        ValueError: if it is not one, or a size of nothing.
    """
    found = _LIMIT.fullmatch(text)
    if found is None:
        raise ValueError(f"{text} is not a size and a number of tokens")
    size = int(TypeAdapter(ByteSize).validate_python(found[1]))
    if size < 1:
        raise ValueError(f"{text} is not positive")
    return CacheLimit(size, int(found[2]))
