"""Check, once per model, that a block computes the same with the MLP of a later one."""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from weakref import WeakKeyDictionary

import torch
from torch import nn

from shapcut.contracts import UnsupportedModelError
from shapcut_adapters.shared.forwards import replaced_blocks
from shapcut_adapters.transformers.decoder import Decoder, forward, input_device
from shapcut_adapters.transformers.interception import learn_containers, skipped
from shapcut_adapters.transformers.removal import pinned_blocks
from shapcut_adapters.transformers.sublayers.players import SubLayers

_SHAPE = (1, 8)
_VOCABULARY = 32
_FAULT = "a {} computes something else when a block has the MLP of a later one"

_KNOWN: WeakKeyDictionary[nn.Module, tuple[int, str]] = WeakKeyDictionary()
"""By model: its depth when it was checked, and the fault."""


def mlp_children(sublayers: SubLayers) -> list[list[str]]:
    """For each block, the names of its children that serve its MLP.

    Raises:
        UnsupportedModelError: if a child serves the attention too.
    """
    found = []
    for block, parts in zip(sublayers.decoder.blocks, sublayers.blocks, strict=True):
        mixer, mlp = ({path.partition(".")[0] for path in part.silent} for part in parts)
        if both := sorted(mixer & mlp):
            raise UnsupportedModelError(f"the child {both[0]} of a block serves attention and MLP")
        found.append([name for name, _ in block.named_children() if name in mlp])
    return found


def shift_fault(sublayers: SubLayers) -> str:
    """Why blocks of this model cannot have the MLPs of others; empty if they can.

    A model without weights in memory is taken to be able to.
    """
    model, depth = sublayers.decoder.model, len(sublayers.blocks)
    known = _KNOWN.get(model)
    if known is None or known[0] != depth:
        known = depth, _found(sublayers)
        _KNOWN[model] = known
    return known[1]


def _found(sublayers: SubLayers) -> str:
    decoder = sublayers.decoder
    try:
        children = mlp_children(sublayers)
    except UnsupportedModelError as error:
        return str(error)
    if any(weight.is_meta for weight in decoder.model.parameters()):
        return ""
    pinned = pinned_blocks(decoder)
    for first, second in pairwise(range(len(decoder.blocks))):
        if not {first, second}.intersection(pinned) and children[first] == children[second]:
            with torch.inference_mode():
                same = _is_same(sublayers, first, children[first])
            return "" if same else _FAULT.format(type(decoder.model).__name__)
    return "no two neighbouring blocks are alike"


def _is_same(sublayers: SubLayers, first: int, names: list[str]) -> bool:
    """Whether block ``first`` with the next one's MLP does what both do without the parts in between."""
    decoder, stages = sublayers.decoder, sublayers.stages()
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(_VOCABULARY, _SHAPE, generator=generator).to(input_device(decoder.model))
    everyone = set(range(stages[-1].stop))
    full = forward(decoder.model, ids)
    with sublayers.bypass(everyone - {stages[first][1], stages[first + 1][0]}):
        expected = forward(decoder.model, ids)
    second = decoder.blocks[first + 1]
    absent = skipped(decoder, learn_containers(decoder), [second])
    with _exchanged(decoder, first, names), replaced_blocks(absent):
        found = forward(decoder.model, ids)
    effect = float((expected - full).abs().max())
    tolerance: float = torch.finfo(full.dtype).eps ** 0.5 * effect
    return float((found - expected).abs().max()) <= tolerance


@contextmanager
def _exchanged(decoder: Decoder, first: int, names: list[str]) -> Iterator[None]:
    """Block ``first`` has the next block's children of these names, besides that block."""
    block, following = decoder.blocks[first], decoder.blocks[first + 1]
    own = {name: getattr(block, name) for name in names}
    for name in names:
        setattr(block, name, getattr(following, name))
    try:
        yield
    finally:
        for name, child in own.items():
            setattr(block, name, child)
