"""What generation remembers between two tokens: keys and values of attention, states of recurrent layers."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from shapcut.measurement.latency import random_prompt
from shapcut.models.adapter import Adapter
from shapcut.support.quiet import quiet_libraries


class CacheSizes(BaseModel):
    """Bytes of what a model remembers, counted in the tensors that it returned.

    Attributes:
        lengths: tokens of each sequence that had been read.
        sizes: bytes at each of these lengths, of all sequences together.
        batch_size: number of sequences.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    lengths: tuple[int, ...]
    sizes: tuple[int, ...]
    batch_size: int = 1


def cache_sizes(
    adapter: Adapter, model: nn.Module, lengths: Sequence[int], *, batch_size: int = 1, seed: int = 0
) -> CacheSizes:
    """Read random prompts of several lengths, and count what the model then remembers.

    Args:
        adapter: the model's adapter.
        model: in evaluation mode.
        lengths: tokens a sequence.
        batch_size: sequences at a time.
        seed: of the prompts.

    Raises:
        UnsupportedModelError: if the model returns nothing that it would go on from.
    """
    prompts = random_prompt(adapter, model, max(lengths), seed, batch_size)
    with quiet_libraries():
        sizes = tuple(tensor_bytes(adapter.generation_state(model, prompts[:, :length])) for length in lengths)
    return CacheSizes(lengths=tuple(lengths), sizes=sizes, batch_size=batch_size)


def tensor_bytes(held: Any) -> int:
    """Bytes of the distinct tensors that an object holds, however deep; those of modules do not count."""
    tensors = {(tensor.data_ptr(), tensor.shape, tensor.stride()): tensor for tensor in _tensors(held, set())}
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())


def _tensors(held: Any, seen: set[int]) -> Iterator[Tensor]:
    if isinstance(held, Tensor):
        yield held
        return
    if id(held) in seen or isinstance(held, (nn.Module, type)):
        return
    seen.add(id(held))
    for part in _parts(held):
        yield from _tensors(part, seen)


def _parts(held: Any) -> Sequence[Any]:
    if isinstance(held, Mapping):
        return list(held.values())
    if isinstance(held, (list, tuple)):
        return held
    return list(getattr(held, "__dict__", {}).values())
