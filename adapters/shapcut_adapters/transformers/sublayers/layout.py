"""The parts of all blocks of a model, found once and kept with it."""

from collections.abc import Sequence
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch
from torch import nn

from shapcut.contracts import State, UnsupportedModelError, is_quantized
from shapcut_adapters.transformers.decoder import Decoder, find_decoder, forward, input_device
from shapcut_adapters.transformers.interception import learn_containers
from shapcut_adapters.transformers.offload import is_managed
from shapcut_adapters.transformers.recorded_stack import RecordedStack
from shapcut_adapters.transformers.sublayers.discovery import FAULTS, BlockTrial, is_attention
from shapcut_adapters.transformers.sublayers.parts import Part, PartKind
from shapcut_adapters.transformers.tiny_models import tiny_model

Layout = tuple[tuple[Part, ...], ...]
"""The parts of each block, in execution order."""

_LENGTH = 12
_VOCABULARY = 32


@dataclass(frozen=True, slots=True)
class _Known:
    """A layout, and what it was found for: a removal or a conversion makes it stale."""

    depth: int
    dtype: torch.dtype
    layout: Layout | str


_LAYOUTS: WeakKeyDictionary[nn.Module, _Known] = WeakKeyDictionary()


def find_layout(decoder: Decoder) -> Layout:
    """The parts of each block.

    A model without weights in memory is taken to be laid out as the tiny example of its family.

    Raises:
        UnsupportedModelError: naming the model's class, if a block does not come apart.
    """
    name = type(decoder.model).__name__
    if is_quantized(decoder.model):
        raise UnsupportedModelError("the parts of a quantized model's blocks cannot be players; use block")
    depth, dtype = len(decoder.blocks), next(decoder.model.parameters()).dtype
    known = _LAYOUTS.get(decoder.model)
    if known is None or (known.depth, known.dtype) != (depth, dtype):
        known = _Known(depth, dtype, _found(decoder))
        _LAYOUTS[decoder.model] = known
    if isinstance(known.layout, str):
        raise UnsupportedModelError(
            f"the blocks of a {name} do not come apart into attention and MLP: {known.layout}; use block"
        )
    return known.layout


def _found(decoder: Decoder) -> Layout | str:
    """The layout, or the reason why the blocks cannot be split."""
    try:
        if all(weight.is_meta for weight in decoder.model.parameters()) and not is_managed(decoder.model):
            return _by_example(decoder)
        with torch.inference_mode():
            return _by_trial(decoder)
    except UnsupportedModelError as error:
        return str(error)


def _by_trial(decoder: Decoder) -> Layout:
    stack = RecordedStack(decoder, learn_containers(decoder), batch_size=1)
    trials = _trials(decoder, stack)
    groups = []
    for trial in trials:
        with stack.resident(trial.index):
            groups.append(trial.groups())
    mixing: set[tuple[str, type]] = set()
    for trial, found in zip(trials, groups, strict=True):
        with stack.resident(trial.index):
            mixing |= {_sort(trial.block, name) for name in found if trial.mixes(found, [name])}
    layout = []
    for trial, found in zip(trials, groups, strict=True):
        mixers = [name for name in found if _sort(trial.block, name) in mixing]
        with stack.resident(trial.index):
            if not mixers and len(found) > 1:
                mixers = trial.split(found)
            layout.append(tuple(trial.parts(_kinds(trial.block, list(found), mixers), found)))
    _require_separate(decoder, layout)
    return tuple(layout)


def _trials(decoder: Decoder, stack: RecordedStack) -> list[BlockTrial]:
    """A trial of each block on the hidden state that enters it, if replaying the blocks gives the model."""
    ids = torch.randint(_VOCABULARY, (1, _LENGTH), generator=torch.Generator().manual_seed(0))
    ids = ids.to(input_device(decoder.model))
    trials = []
    state: State = stack.prelude(ids)
    for index, block in enumerate(decoder.blocks):
        state = stack.placed(index, state)
        try:
            with stack.resident(index):
                trials.append(BlockTrial(stack, index, block, state))
        except FAULTS:
            raise UnsupportedModelError(f"block {index} does not run by itself") from None
        state = trials[-1].full
    logits, expected = stack.readout(state), forward(decoder.model, ids)
    tolerance = torch.finfo(expected.dtype).eps ** 0.5 * float(expected.abs().max())
    if not float((logits - expected).abs().max()) <= tolerance:
        raise UnsupportedModelError("they pass on more than a hidden state")
    return trials


def _kinds(block: nn.Module, names: list[str], mixers: list[str]) -> list[tuple[PartKind, list[str]]]:
    """The groups of the token mixer, attention first, and of the MLP, the largest first; no empty ones."""
    if len(names) == len(mixers) > 1:
        mixers = names[:-1]
    others = [name for name in names if name not in mixers]
    attention = [name for name in mixers if is_attention(name, block.get_submodule(name))]
    kind: PartKind = "attention" if attention else "mixer"
    mixers = [*attention, *(name for name in mixers if name not in attention)]
    others.sort(key=lambda name: -sum(weight.numel() for weight in block.get_submodule(name).parameters()))
    found: list[tuple[PartKind, list[str]]] = [(kind, mixers), ("mlp", others)]
    return [(kind, some) for kind, some in found if some]


def _sort(block: nn.Module, name: str) -> tuple[str, type]:
    return name, type(block.get_submodule(name))


def _require_separate(decoder: Decoder, layout: Sequence[Sequence[Part]]) -> None:
    """Refuse modules that several blocks share: leaving one out would change the others."""
    owners: dict[int, int] = {}
    for index, (block, parts) in enumerate(zip(decoder.blocks, layout, strict=True)):
        for part in parts:
            for module, _ in part.silenced(block):
                if (first := owners.setdefault(id(module), index)) != index:
                    raise UnsupportedModelError(f"blocks {first} and {index} share a module")


def _by_example(decoder: Decoder) -> Layout:
    """The layout of a model without weights, from blocks of the same structure in its family's example."""
    example = find_decoder(tiny_model(decoder.family, 0)[0])
    found = {
        _structure(block): parts for block, parts in zip(example.blocks, find_layout(example), strict=True)
    }
    try:
        return tuple(found[_structure(block)] for block in decoder.blocks)
    except KeyError:
        raise UnsupportedModelError("without weights it cannot be tried out") from None


def _structure(block: nn.Module) -> tuple[type, tuple[tuple[str, type], ...]]:
    return type(block), tuple((name, type(child)) for name, child in block.named_children())
