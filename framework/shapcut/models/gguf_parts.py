"""The files of a split GGUF model: ``NAME-00001-of-00003.gguf`` and so on."""

import re
from pathlib import Path

_PART = re.compile(r"(.+)-(\d{5})-of-(\d{5})(\.gguf)", re.S | re.I)


def parts_of(file: Path) -> tuple[Path, ...]:
    """The files that the name of a GGUF file says its model has, in order; the file alone if it is whole."""
    found = _PART.fullmatch(file.name)
    if found is None or int(found[3]) < 1:
        return (file,)
    name, _, count, suffix = found.groups()
    return tuple(
        file.with_name(f"{name}-{number:05}-of-{count}{suffix}") for number in range(1, int(count) + 1)
    )
