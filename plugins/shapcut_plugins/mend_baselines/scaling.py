"""Scale the residual stream from a cut on, by the weights of the blocks after it.

Where each part of a block normalises what it reads, and the output too, only the direction of the stream
counts. So a model whose stream is multiplied by c at a cut gives the same logits as one whose blocks after
the cut add 1 / c of what they did: up to the epsilons of the norms, and without a change of the embedding,
which may be tied to the output.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from shapcut.contracts import Adapter, LayerStack, OutputProjection, State

_FACTOR = 2.0
_ACCEPTED = 0.05
"""Largest difference of a block's update, as a share: norms have epsilons, 16-bit streams are coarse."""

_BATCH, _LENGTH, _VOCABULARY = 2, 12, 32


def scaling_objection(model: nn.Module, adapter: Adapter) -> str:
    """Why the stream of a whole model cannot be scaled by its weights; empty if it can."""
    stack, name = adapter.stack(model), type(model).__name__
    if stack is None:
        return f"{name} cannot be run block by block"
    for player in adapter.players(model):
        for projection in (found := adapter.output_projections(model, player)):
            if not projection.linear and _offset(model.get_submodule(projection.module)) is None:
                return f"what {projection.module} returns is not proportional to weights of its own"
        if not found:
            return f"what block {player.index} of {name} adds to the residual stream is not a sum of modules"
    return _not_invariant(adapter, model, stack)


def scale_from(adapter: Adapter, model: nn.Module, block: int, factor: float) -> None:
    """Scale the stream that enters a block, by what this block and all later ones add to it.

    Args:
        adapter: of the model.
        model: changed in place; one without a `scaling_objection`.
        block: the first block after the cut.
        factor: of the stream.
    """
    for player in adapter.players(model)[block:]:
        for projection in adapter.output_projections(model, player):
            _scale(model, projection, 1.0 / factor)


def _scale(model: nn.Module, projection: OutputProjection, factor: float) -> None:
    module: Any = model.get_submodule(projection.module)
    offset = 0.0 if projection.linear else (_offset(module) or 0.0)
    module.weight.copy_((module.weight.double() + offset) * factor - offset)
    if getattr(module, "bias", None) is not None:
        module.bias.copy_(module.bias.double() * factor)


@torch.no_grad()
def _offset(module: nn.Module) -> float | None:
    """What a norm adds to its weight before it multiplies by it, 0 or 1; None if it is no such module."""
    own = dict(module.named_parameters())
    weight = own.get("weight")
    if weight is None or weight.ndim != 1 or not own.keys() <= {"weight", "bias"}:
        return None
    generator = torch.Generator().manual_seed(0)
    given = torch.randn((4, len(weight)), generator=generator).to(weight)
    kept, found = {name: parameter.clone() for name, parameter in own.items()}, None
    try:
        full = module(given)
        for offset in (0.0, 1.0):
            weight.copy_((kept["weight"] + offset) * _FACTOR - offset)
            if "bias" in own:
                own["bias"].copy_(kept["bias"] * _FACTOR)
            if found is None and _close(module(given), _FACTOR * full):
                found = offset
    finally:
        for name, parameter in own.items():
            parameter.copy_(kept[name])
    return found


def _close(one: Tensor, other: Tensor) -> bool:
    steps = 16 * torch.finfo(one.dtype).eps
    return float((one - other).abs().max()) <= steps * float(other.abs().max())


@torch.no_grad()
def _not_invariant(adapter: Adapter, model: nn.Module, stack: LayerStack) -> str:
    """Which part of a model reads the scale of the stream; empty if none does."""
    name = type(model).__name__
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(_VOCABULARY, (stack.batch_size or _BATCH, _LENGTH), generator=generator)
    state = stack.prelude(ids.to(adapter.input_device(model)))
    if not torch.equal(stack.stream(_scaled(state)), _FACTOR * stack.stream(state)):
        return f"the residual stream of {name} is in several tensors"
    for player in adapter.players(model):
        following = stack.step(player.index, state)
        with _scaled_outputs(model, adapter.output_projections(model, player)):
            scaled = stack.step(player.index, _scaled(state))
        added = _FACTOR * (stack.stream(following).double() - stack.stream(state))
        difference = stack.stream(scaled).double() - _FACTOR * stack.stream(following).double()
        if float(difference.norm()) > _ACCEPTED * float(added.norm()):
            return f"block {player.index} of {name} does not normalise what it reads"
        state = following
    logits = [stack.readout(each).double() for each in (state, _scaled(state))]
    if float((logits[0] - logits[1]).norm()) > _ACCEPTED * float(logits[0].norm()):
        return f"{name} does not normalise the stream before its output"
    return ""


@contextmanager
def _scaled_outputs(model: nn.Module, projections: Sequence[OutputProjection]) -> Iterator[None]:
    """Scale what projections return while the context is open."""
    with ExitStack() as hooks:
        for projection in projections:
            module = model.get_submodule(projection.module)
            hooks.callback(module.register_forward_hook(lambda _, __, output: _FACTOR * output).remove)
        yield


def _scaled(state: State) -> State:
    return (_FACTOR * state[0], *state[1:])
