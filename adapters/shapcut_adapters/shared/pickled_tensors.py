"""Tensors from pickles, which may hold nothing else and declare no more than they store."""

import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from shapcut.contracts import InputError

_LARGEST_PICKLE = 2**26
"""Bytes of the pickle in a zip file: the names and shapes, without the tensors' content."""

_MOST_COPIES = 4
"""How many times its own size a file's tensors may have in all; tied weights are there twice."""


def load_tensors(path: Path, device: torch.device | str) -> dict[str, Tensor]:
    """The dictionary of tensors in a file, memory-mapped where the file allows it.

    Raises:
        InputError: if it holds anything else, in which case nothing of it is run, or declares more elements
            than it stores.
    """
    try:
        zipped = zipfile.is_zipfile(path)
        if zipped:
            _require_plain_zip(path)
        content: Any = torch.load(path, map_location=device, weights_only=True, mmap=zipped)
    except InputError:
        raise
    except Exception as error:
        raise InputError(
            f"{path} is damaged, or holds more than tensors: {type(error).__name__}; nothing of it was run, "
            "take another copy"
        ) from error
    if not isinstance(content, dict) or not all(isinstance(name, str) for name in content):
        raise InputError(f"{path} holds no dictionary of tensors; take another copy")
    _require_stored(path, content)
    return content


def _require_plain_zip(path: Path) -> None:
    """Refuse compressed members, whose declared sizes nothing bounds, and an endless pickle."""
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            if member.compress_type != zipfile.ZIP_STORED:
                raise InputError(f"{path} is compressed, which torch does not write; take another copy")
            if member.filename.endswith(".pkl") and member.file_size > _LARGEST_PICKLE:
                raise InputError(
                    f"{path} has {member.file_size:,} bytes of names, more than {_LARGEST_PICKLE:,}; "
                    "take another copy"
                )


def _require_stored(path: Path, content: dict[str, Any]) -> None:
    """Refuse tensors that repeat few stored elements, as a small file could stand for a huge one."""
    left = _MOST_COPIES * path.stat().st_size
    for name, tensor in content.items():
        if isinstance(tensor, Tensor):
            left -= tensor.numel() * tensor.element_size()
            if left < 0:
                raise InputError(
                    f"{path} declares tensors of more than {_MOST_COPIES} times its size, "
                    f"{name[:100]!r} among them; take another copy"
                )
