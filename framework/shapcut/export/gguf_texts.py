"""What the metadata of a GGUF file says about its model as a whole, after a cut."""

import re
from collections.abc import Sequence
from math import prod

from shapcut.models.gguf_header import INTEGERS, STRING, GGUFHeader, TensorEntry

_NAME, _LABEL, _COUNT = "general.name", "general.size_label", "general.parameter_count"

_MARKED = re.compile(r"(.*) \(\d+ of (\d+) blocks\)", re.S)

_READ_BY_NAME = ("mistral",)
"""Names by which transformers takes a Llama for another architecture."""


def new_texts(header: GGUFHeader, kept: Sequence[int]) -> dict[str, str]:
    """The name, with the number of blocks, and the label of the size; those that the file has.

    Args:
        header: of the whole model.
        kept: the blocks that stay.
    """
    blocks = header.block_count or 0
    texts = {key: entry.value for key, entry in header.by_name.items() if entry.kind == STRING}
    found = {}
    if len(kept) < blocks and texts.get(_NAME, _READ_BY_NAME[0]) not in _READ_BY_NAME:
        marked = _MARKED.fullmatch(texts[_NAME])
        name, before = marked.groups() if marked else (texts[_NAME], blocks)
        found[_NAME] = f"{name} ({len(kept)} of {before} blocks)"
    if len(kept) < blocks and _LABEL in texts:
        found[_LABEL] = size_label(_kept_tensors(header, kept))
    return found


def counted_again(header: GGUFHeader, kept: Sequence[int]) -> dict[str, int]:
    """The number of parameters, if the file states it."""
    entry = header.by_name.get(_COUNT)
    if entry is None or entry.kind not in INTEGERS:
        return {}
    return {_COUNT: sum(prod(tensor.shape) for tensor in _kept_tensors(header, kept))}


def size_label(tensors: Sequence[TensorEntry]) -> str:
    """The size of a model as converters to GGUF write it, such as ``135M`` or ``8x7B``."""
    from gguf.utility import size_label as labelled  # noqa: PLC0415 - only for GGUF files

    experts = [tensor for tensor in tensors if "_exps." in tensor.name and len(tensor.shape) > 2]  # noqa: PLR2004
    counts = [tensor.shape[1 if ".bias" in tensor.name else 2] for tensor in experts]
    total = sum(prod(tensor.shape) for tensor in tensors)
    of_experts = sum(prod(tensor.shape) for tensor in experts)
    each = sum(prod(tensor.shape) // count for tensor, count in zip(experts, counts, strict=True))
    return str(labelled(total, total - of_experts, each, sum(counts) // len(counts) if counts else 0))


def _kept_tensors(header: GGUFHeader, kept: Sequence[int]) -> list[TensorEntry]:
    return [tensor for tensor in header.tensors if tensor.block is None or tensor.block in kept]
