"""Cut a checkpoint's safetensors files: the kept tensors byte for byte, renamed, or with other values."""

import json
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from io import BufferedIOBase
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from shapcut.models.stored_tensors import read_header, weight_files
from shapcut.support.files import write_json_atomically

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
_CHUNK = 1 << 20
_ALIGNMENT = 8

Rename = Callable[[str], str | None]
"""From a tensor's old name to its new one; None drops it."""


@dataclass(frozen=True, slots=True)
class _Tensor:
    """A tensor in a file.

    Attributes:
        file: where its bytes are.
        start: their position there.
        size: their number.
        kind: dtype and shape, as a header has them.
    """

    file: Path
    start: int
    size: int
    kind: Mapping[str, Any]


def cut_weights(
    source: Path, directory: Path, rename: Rename, follow: Callable[[Mapping[str, str]], dict[str, str]]
) -> None:
    """Copy a checkpoint's tensors under their new names, file by file; memory use does not grow with them.

    Args:
        source: the checkpoint.
        directory: where files of the same names are written; one alone is called model.safetensors.
        rename: new names.
        follow: a file's metadata after the renaming.

    Raises:
        InputError: if a file of the checkpoint is damaged.
        OSError: if a file cannot be read or written.
    """
    places: dict[str, _Tensor] = {}
    for file in weight_files(source):
        renamed = ((rename(name), tensor) for name, tensor in _tensors(file).items())
        kept = {name: tensor for name, tensor in renamed if name is not None}
        if kept:
            written = directory / file.name
            _write(written, follow(read_header(file).metadata), kept)
            places |= _tensors(written)
    _write_index(directory, places)


def replace_weights(directory: Path, saved: Path) -> bool:
    """Give the tensors of one checkpoint the values that they have in another; equal ones keep their bytes.

    Values are equal if those of ``directory``, in the number format of ``saved``, are. Tensors that only
    ``directory`` has stay, such as layers that predict further tokens; but copies of a tensor with other
    values go, since a tied weight is stored once.

    Args:
        directory: the checkpoint to change.
        saved: the same model with other values.

    Returns:
        Whether ``directory`` holds all tensors of ``saved`` in their shapes; else nothing is changed.

    Raises:
        InputError: if a file of either is damaged.
        OSError: if a file cannot be read or written.
    """
    old, new = _all_tensors(directory), _all_tensors(saved)
    if any(
        name not in old or old[name].kind["shape"] != tensor.kind["shape"] for name, tensor in new.items()
    ):
        return False
    changed = {name: new[name] for name in _different(old, new)}
    if not changed:
        return True
    alone = {name: tensor for name, tensor in old.items() if name not in new}
    copies = {
        name for name, tensor in alone.items() if any(_same_bytes(tensor, old[each]) for each in changed)
    }
    for file in weight_files(directory):
        own = _tensors(file)
        kept = {name: changed.get(name, tensor) for name, tensor in own.items() if name not in copies}
        if kept != own:
            written = file.with_suffix(".new")
            _write(written, read_header(file).metadata, kept)
            written.replace(file)
    _write_index(directory, _all_tensors(directory))
    return True


def _all_tensors(directory: Path) -> dict[str, _Tensor]:
    return {name: tensor for file in weight_files(directory) for name, tensor in _tensors(file).items()}


def _tensors(file: Path) -> dict[str, _Tensor]:
    """The tensors of a file by name, in their order."""
    header, found = read_header(file), {}
    for name, entry in header.tensors.items():
        kind = {key: value for key, value in entry.items() if key != "data_offsets"}
        first, end = entry["data_offsets"]
        found[name] = _Tensor(file, header.start + first, end - first, kind)
    return found


def _write(target: Path, metadata: Mapping[str, str], tensors: Mapping[str, _Tensor]) -> None:
    """Write a safetensors file."""
    header: dict[str, Any] = {"__metadata__": metadata} if metadata else {}
    position = 0
    for name, tensor in tensors.items():
        header[name] = {**tensor.kind, "data_offsets": [position, position + tensor.size]}
        position += tensor.size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    with ExitStack() as stack, target.open("wb") as writing:
        files = {tensor.file for tensor in tensors.values()}
        reading = {file: stack.enter_context(file.open("rb")) for file in files}
        writing.write(len(text).to_bytes(8, "little") + text)
        for tensor in tensors.values():
            for part in _parts(reading[tensor.file], tensor):
                writing.write(part)


def _parts(stream: BufferedIOBase, tensor: _Tensor) -> Iterable[bytes]:
    stream.seek(tensor.start)
    left = tensor.size
    while left > 0:
        part = stream.read(min(left, _CHUNK))
        if not part:
            raise OSError("the weights end before their last tensor")
        left -= len(part)
        yield part


def _write_index(directory: Path, places: Mapping[str, _Tensor]) -> None:
    """Write which file holds which tensor; a single file needs no index."""
    files = {name: tensor.file.name for name, tensor in sorted(places.items())}
    if len(names := sorted(set(files.values()))) == 1:
        (directory / names[0]).rename(directory / SINGLE)
        (directory / INDEX).unlink(missing_ok=True)
    else:
        size = sum(tensor.size for tensor in places.values())
        write_json_atomically(directory / INDEX, {"metadata": {"total_size": size}, "weight_map": files})


def _different(old: Mapping[str, _Tensor], new: Mapping[str, _Tensor]) -> list[str]:
    """The names in ``new`` whose values differ from those in ``old``, in the number format of ``new``."""
    with ExitStack() as stack:
        files = {tensor.file for tensor in (*old.values(), *new.values())}
        opened = {file: stack.enter_context(safe_open(file, "pt")) for file in files}

        def differs(name: str) -> bool:
            wanted = opened[new[name].file].get_tensor(name)
            return not torch.equal(opened[old[name].file].get_tensor(name).to(wanted.dtype), wanted)

        return list(filter(differs, new))


def _same_bytes(one: _Tensor, other: _Tensor) -> bool:
    if one.kind != other.kind:
        return False
    with one.file.open("rb") as first, other.file.open("rb") as second:
        return all(a == b for a, b in zip(_parts(first, one), _parts(second, other), strict=True))
