"""The file of a recipe."""

from pathlib import Path
from typing import Any

from shapcut.support.errors import InputError
from shapcut.support.files import require_regular
from shapcut.support.plain_yaml import load_plain_yaml

_LARGEST = 1 << 20


def read_recipe_file(file: Path) -> dict[str, Any]:
    """The content of a recipe's file.

    Raises:
        InputError: if it is no YAML mapping of text to values; see `load_plain_yaml`.
    """
    require_regular(file)
    try:
        with file.open("rb") as stream:
            content = stream.read(_LARGEST + 1)
        if len(content) > _LARGEST:
            raise InputError(f"the recipe {file} has more than {_LARGEST:,} bytes, too many for a recipe")
        text = content.decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else f"it is not UTF-8 text: {error}"
        raise InputError(f"cannot read the recipe {file}: {reason}") from error
    try:
        options = load_plain_yaml(text)
    except ValueError as error:
        raise InputError(f"the recipe {file} is not YAML that can be used: {error}") from error
    if not isinstance(options, dict) or not all(isinstance(key, str) for key in options):
        raise InputError(f"the recipe {file} is not a mapping of options to values, such as 'ratio: 0.2'")
    return options
