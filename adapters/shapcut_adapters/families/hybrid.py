"""Decoders that mix attention with other ways of mixing tokens, or have none."""

from shapcut_adapters.families.family import Family

HYBRID_FAMILIES: tuple[Family, ...] = ()
