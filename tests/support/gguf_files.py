"""Small GGUF files without a model in them, to be cut and damaged."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np


def write_gguf_file(
    path: Path,
    architecture: str = "llama",
    blocks: int = 6,
    *,
    alignment: int | None = None,
    endian: gguf.GGUFEndian = gguf.GGUFEndian.LITTLE,
    outside: Mapping[str, np.ndarray] | None = None,
    general: Mapping[str, Any] | None = None,
    split: int = 0,
    **metadata: Any,
) -> Path:
    """Blocks of two tensors each: float32, and Q8_0 as bytes.

    Args:
        path: the new file.
        architecture: its name.
        blocks: their number.
        alignment: other than the usual.
        endian: the byte order.
        outside: tensors in no block.
        general: further metadata that is not of the architecture.
        split: the number of tensors in each part of a split model; 0: one file.
        metadata: numbers, truth values, texts and lists; ``__`` stands for a dot, and the architecture's
            name comes first.

    Returns:
        The file, or the first part.
    """
    rng = np.random.default_rng(0)
    writer = gguf.GGUFWriter(path, architecture, endianess=endian, split_max_tensors=split)
    writer.add_string("general.description", "größer")
    if alignment is not None:
        writer.add_custom_alignment(alignment)
    writer.add_block_count(blocks)
    for key, value in (general or {}).items():
        _add(writer, f"general.{key}", value)
    for key, value in metadata.items():
        _add(writer, f"{architecture}.{key.replace('__', '.')}", value)
    writer.add_token_list(["a", "b", "", "d"])
    writer.add_array("tokenizer.ggml.token_type", [1] * blocks)
    for name, tensor in {"token_embd.weight": np.ones((4, 8), np.float32), **(outside or {})}.items():
        writer.add_tensor(name, tensor)
    for block in range(blocks):
        writer.add_tensor(f"blk.{block}.attn_norm.weight", rng.normal(size=5 + block).astype(np.float32))
        packed = rng.integers(0, 256, (3, 34), np.uint8)
        writer.add_tensor(f"blk.{block}.ffn_up.weight", packed, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return min(path.parent.glob(f"{path.stem}-00001-of-*.gguf"), default=path)


def _add(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    kinds = {bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}
    add = writer.add_array if isinstance(value, list) else kinds[type(value)]
    add(key, value)


def contents(path: Path) -> dict[str, Any]:
    """The metadata as the gguf package reads it, without the numbers of tensors and keys."""
    fields = gguf.GGUFReader(path).fields
    return {name: field.contents() for name, field in fields.items() if not name.startswith("GGUF.")}


def stored(path: Path) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    """Type, shape and bytes of every tensor, as the gguf package reads them."""
    return {
        tensor.name: (tensor.tensor_type.name, tuple(map(int, tensor.shape)), tensor.data.tobytes())
        for tensor in gguf.GGUFReader(path).tensors
    }
