"""Checks of the output projections that update the residual stream."""

from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from shapcut.models.layer_stack import LayerStack, State
from shapcut.models.output_projection import OutputProjection, norm_factors
from shapcut.testing.case import Case
from shapcut.testing.comparison import TOLERANCE, ConformanceError, require

_NONE = "no projections declared: nothing can be folded into them"


def projections_are_added(case: Case) -> str:
    """A player's update is the sum of its declared projections, and linear projections are linear."""
    if case.granularity != "block":
        return "projections are those of whole blocks"
    if next(case.model.parameters()).dtype != torch.float32:
        return "the example is not in fp32"
    model = case.fresh()
    declared = [case.adapter.output_projections(model, player) for player in case.players]
    if not any(declared):
        return _NONE
    stack = case.stack(model)
    if stack is None:
        raise ConformanceError("projections are declared, but there is no stack whose steps call them")
    with torch.inference_mode():
        state: State = tuple(t[: stack.batch_size] for t in stack.prelude(case.input_ids))
        for player, projections in zip(case.players, declared, strict=True):
            state = _checked_step(model, stack, player.index, state, projections)
    require(torch.equal(case.logits(model), case.full), "the model computes something else afterwards")
    return f"{sum(map(len, declared))} projections of {len(case.players)} players"


def _checked_step(
    model: nn.Module, stack: LayerStack, index: int, state: State, projections: tuple[OutputProjection, ...]
) -> State:
    """Run a step and require its update to be the sum of the projections."""
    modules = {name for each in projections for name in (each.module, each.normed) if name}
    calls: dict[str, list[tuple[Tensor | None, Tensor]]] = {name: [] for name in modules}
    with ExitStack() as hooks:
        for name, made in calls.items():
            handle = model.get_submodule(name).register_forward_hook(_record(made))
            hooks.callback(handle.remove)
        following = stack.step(index, state)
    if not projections:
        return following
    added = stack.stream(following) - stack.stream(state)
    total = torch.zeros_like(added)
    for projection in projections:
        require(len(calls[projection.module]) == 1, f"{projection.module} does not run once in a step")
        given, output = calls[projection.module][0]
        total += projection.factor * output.reshape(added.shape)
        if projection.linear:
            _require_linear(model, projection.module, projection, given, output)
        elif projection.normed:
            _require_normed(model, projection, calls, output)
        elif projection.bias:
            _require_bias(model, stack, index, state, projection)
    share = float((total - added).abs().max() / stack.stream(following).abs().max())
    require(share <= TOLERANCE, f"player {index} adds something else: off by {share:.2g} of the stream")
    require(bool(added.abs().max() > 0), f"vacuous: player {index} adds nothing")
    return following


def _record(made: list[tuple[Tensor | None, Tensor]]) -> Any:
    def record(_module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        given = output if isinstance(output, Tensor) else output[0]
        made.append((args[0] if args else None, given.clone()))  # some blocks add to it in place

    return record


def _require_linear(
    model: nn.Module, name: str, projection: OutputProjection, given: Tensor | None, output: Tensor
) -> None:
    if given is None:
        raise ConformanceError(f"{name} is not given its input as its first argument")
    module: Any = model.get_submodule(name)
    own = getattr(module, "weight", None)
    if own is None or own.ndim != 2:  # noqa: PLR2004 - a matrix
        raise ConformanceError(f"{name} has no weight that is a matrix")
    expected = functional.linear(given, own.t() if projection.transposed else own, module.bias)
    share = float((expected - output).abs().max() / output.abs().max())
    require(share <= TOLERANCE, f"{name} is not the linear map of its weight and bias")


def _require_normed(
    model: nn.Module,
    projection: OutputProjection,
    calls: Mapping[str, list[tuple[Tensor | None, Tensor]]],
    output: Tensor,
) -> None:
    """Require a module to normalise what a linear map returns."""
    name = projection.normed
    require(len(calls[name]) == 1, f"{name} does not run once in a step")
    given, inner = calls[name][0]
    _require_linear(model, name, projection, given, inner)
    require(inner.numel() == output.numel(), f"{projection.module} does not normalise what {name} returns")
    inner, output = (found.reshape(-1, found.shape[-1]).double() for found in (inner, output))
    by_token, by_channel = norm_factors(inner, output)
    share = float((inner * by_token[:, None] * by_channel - output).abs().max() / output.abs().max())
    require(share <= TOLERANCE, f"{projection.module} does not normalise what {name} returns")


def _require_bias(
    model: nn.Module, stack: LayerStack, index: int, state: State, projection: OutputProjection
) -> None:
    """Require a vector that is added to a bias to be added to the stream, times the projection's factor."""
    bias = model.get_parameter(projection.bias)
    before, whole = bias.detach().clone(), stack.stream(stack.step(index, state))
    vector = torch.linspace(-1, 1, bias.shape[-1], dtype=bias.dtype, device=bias.device) * whole.abs().max()
    bias.data.add_(vector)
    changed = stack.stream(stack.step(index, state)) - whole
    bias.data.copy_(before)
    share = float((changed - projection.factor * vector).abs().max() / whole.abs().max())
    require(share <= TOLERANCE, f"what is added to {projection.bias} is not added to the stream")
