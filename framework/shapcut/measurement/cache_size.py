"""The size of the generation state: keys and values of attention, states of recurrent layers."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from shapcut.measurement.latency import random_prompt
from shapcut.models.adapter import Adapter
from shapcut.support.quiet import quiet_libraries


class CacheSizes(BaseModel):
    """Bytes of the generation state, counted in the tensors that the model returned.

    Attributes:
        lengths: tokens read of each sequence.
        sizes: bytes at each length, for all sequences together.
        batch_size: number of sequences.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    lengths: tuple[int, ...]
    sizes: tuple[int, ...]
    batch_size: int = 1


def cache_sizes(
    adapter: Adapter, model: nn.Module, lengths: Sequence[int], *, batch_size: int = 1, seed: int = 0
) -> CacheSizes:
    """Measure the generation state after random prompts of several lengths.

    Args:
        adapter: the model's adapter.
        model: in evaluation mode.
        lengths: tokens of each sequence.
        batch_size: sequences at a time.
        seed: of the prompts.

    Raises:
        UnsupportedModelError: if the model returns no generation state.
    """
    prompts = random_prompt(adapter, model, max(lengths), seed, batch_size)
    with quiet_libraries():
        states = (adapter.generation_state(model, prompts[:, :length]) for length in lengths)
        sizes = tuple(tensor_bytes(state) for state in states)
    return CacheSizes(lengths=tuple(lengths), sizes=sizes, batch_size=batch_size)


def tensor_bytes(held: Any) -> int:
    """Bytes of the distinct tensors that an object holds at any depth, except those of modules."""
    return sum(tensor.numel() * tensor.element_size() for tensor in distinct_tensors(held))


def distinct_tensors(held: Any) -> list[Tensor]:
    """The distinct tensors that an object holds at any depth, except those of modules."""
    found = {(tensor.data_ptr(), tensor.shape, tensor.stride()): tensor for tensor in _tensors(held, set())}
    return list(found.values())


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
