"""The raw weights of an RWKV model's .pth file: reading, version detection, writing."""

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from shapcut.contracts import InputError, UnsupportedModelError
from shapcut_adapters.shared.pickled_tensors import load_tensors

Version = Literal["4", "5.2", "6", "7"]

WEIGHT_FILE = "model.pth"
BLOCK_WEIGHT = re.compile(r"blocks\.([0-9]{1,9})\.(.+)")

_MATRICES = {"att.key.weight", "att.value.weight", "att.receptance.weight", "att.output.weight"}
_NORMS = {"ln1.weight", "ln1.bias", "ln2.weight", "ln2.bias"}
_COMMON = _MATRICES | _NORMS | {"ffn.key.weight", "ffn.value.weight"}
_CLASSIC = _COMMON | {"ffn.receptance.weight", "att.time_decay"}
_GATED = _CLASSIC | {"att.gate.weight", "att.ln_x.weight", "att.ln_x.bias"}
_NEEDED: dict[Version, set[str]] = {
    "4": _CLASSIC
    | {"att.time_first", *(f"att.time_mix_{x}" for x in "kvr"), *(f"ffn.time_mix_{x}" for x in "kr")},
    "5.2": _GATED | {*(f"att.time_mix_{x}" for x in "kvrg"), *(f"ffn.time_mix_{x}" for x in "kr")},
    "6": _GATED
    | {"att.time_faaaa", *(f"att.time_maa_{x}" for x in "xwkvrg"), *(f"ffn.time_maa_{x}" for x in "kr")}
    | {f"att.{name}" for name in ("time_maa_w1", "time_maa_w2", "time_decay_w1", "time_decay_w2")},
    "7": _COMMON
    | {"att.ln_x.weight", "att.ln_x.bias", "ffn.x_k", *(f"att.x_{x}" for x in "rwkvag")}
    | {f"att.{name}" for name in ("w0", "w1", "w2", "a0", "a1", "a2", "g1", "g2", "k_k", "k_a", "r_k")},
}
_MAY_HAVE: dict[Version, set[str]] = {
    "4": set(),
    "5.2": {"att.time_faaaa", "att.time_first", "att.time_state"},
    "6": {"att.time_state"},
    "7": {"att.v0", "att.v1", "att.v2"},
}
_OUTSIDE = {"emb.weight", "ln_out.weight", "ln_out.bias", "head.weight"}
_FIRST_NORM = {"ln0.weight", "ln0.bias"}


def read_weights(path: Path, *, names_only: bool = False) -> dict[str, Tensor]:
    """The tensors of a .pth file in its dtypes, memory-mapped where the file allows it.

    Args:
        path: the file.
        names_only: give tensors without content, which reads next to nothing.

    Raises:
        InputError: if it is not a pickle of tensors alone; no code in it is run.
    """
    device = "meta" if names_only else "cpu"
    content: dict[str, Any] = load_tensors(path, device)
    if "_strategy" in content:
        raise UnsupportedModelError(
            f"{path} was converted by the rwkv package for {content['_strategy']!r}; prune the original .pth"
        )
    if not all(isinstance(tensor, Tensor) for tensor in content.values()):
        raise InputError(f"{path} holds no dictionary of tensors: it is not an RWKV model")
    return content


def write_weights(weights: Mapping[str, Tensor], path: Path) -> None:
    """Write the plain dictionary of tensors that the package reads, each with its own storage."""
    torch.save({name: _owned(tensor.detach().cpu()) for name, tensor in weights.items()}, path)


def _owned(tensor: Tensor) -> Tensor:
    whole = tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()
    return tensor if whole and tensor.is_contiguous() else tensor.clone(memory_format=torch.contiguous_format)


def layer_count(names: Collection[str]) -> int:
    """Number of blocks: one more than the largest index, as the package counts."""
    return 1 + max((int(found[1]) for name in names if (found := BLOCK_WEIGHT.match(name))), default=-1)


def version_of(weights: Mapping[str, Tensor], source: str) -> Version:
    """The version of a model, detected as the package does; all blocks must have its weights.

    Args:
        weights: raw weights, possibly on the meta device.
        source: where they are from, for messages.

    Raises:
        UnsupportedModelError: if it is of no version that is known here, or weights are missing or unknown.
    """
    if "emb.weight" not in weights:
        raise UnsupportedModelError(f"{source} has no weight 'emb.weight': it is not an RWKV model")
    version = _told_by_names(weights, source)
    if (count := layer_count(weights)) > len(weights):
        raise UnsupportedModelError(f"{source} names block {count - 1}, but holds {len(weights)} tensors")
    blocks: list[set[str]] = [set() for _ in range(count)]
    outside: set[str] = set()
    for name in weights:
        found = BLOCK_WEIGHT.match(name)
        (blocks[int(found[1])] if found else outside).add(found[2] if found else name)
    _require(outside, _OUTSIDE, set(), f"{source} (RWKV {version})")
    for index, block in enumerate(blocks):
        needed = _NEEDED[version] | (_FIRST_NORM if index == 0 else set())
        if version == "7" and index > 0:
            needed = needed | _MAY_HAVE["7"]
        _require(block, needed, _MAY_HAVE[version], f"block {index} of {source} (RWKV {version})")
        if version == "5.2" and not block & {"att.time_faaaa", "att.time_first"}:
            raise UnsupportedModelError(
                f"block {index} of {source} (RWKV 5.2) has no weight 'att.time_faaaa'"
            )
    return version


def _told_by_names(weights: Mapping[str, Tensor], source: str) -> Version:
    first = {found[2] for name in weights if (found := BLOCK_WEIGHT.match(name))}
    if "att.r_k" in first:
        return "7"
    if "att.time_maa_x" in first:
        return "6"
    decay = weights.get("blocks.0.att.time_decay")
    if "att.gate.weight" in first and decay is not None and decay.dim() > 1 and decay.shape[1] > 1:
        return "5.2"
    if "att.ln_x.weight" in first:
        raise UnsupportedModelError(f"{source} is RWKV 5.0 or 5.1; known here are 4, 5.2, 6 and 7")
    return "4"


def _require(found: set[str], needed: set[str], optional: set[str], what: str) -> None:
    if missing := sorted(needed - found):
        raise UnsupportedModelError(f"{what} has no weight {missing[0]!r}")
    if unknown := sorted(found - needed - optional):
        raise UnsupportedModelError(f"{what} has a weight that is not known here: {unknown[0]!r}")
