"""What a player is; imports nothing, so that the command line starts quickly."""

from typing import Literal, get_args

Granularity = Literal["block", "sublayer", "expert", "mixed"]
GRANULARITIES: tuple[Granularity, ...] = get_args(Granularity)


def plural(granularity: Granularity) -> str:
    """The players in words."""
    return "parts and experts" if granularity == "mixed" else f"{granularity}s"
