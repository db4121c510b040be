"""Find the modules of a block that add to the residual stream, from the outputs of one step."""

from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.pytorch_utils import Conv1D

from shapcut.contracts import Adapter, LayerStack, OutputProjection, Player, State, norm_factors

_BATCH, _LENGTH = 2, 12
_VOCABULARY = 32
_ROUNDINGS = 4
"""Largest unexplained root mean square, in rounding steps of the stream's."""

_EXPLAINED = 0.05
"""Largest unexplained share of the block's update, for coarse dtypes whose rounding hides too much."""

_USED = 1e-3
_UNIT = 0.01


@dataclass(frozen=True, slots=True)
class _Output:
    """A module's output in one step.

    Attributes:
        path: the module's path in the block.
        module: the module.
        value: a copy of its output.
        part: whether a direct child of the block has the same output.
        linear: whether the module is a linear map of its input.
        given: a copy of its only argument if it has parameters and no modules of its own; else None.
    """

    path: str
    module: nn.Module
    value: Tensor
    part: bool
    linear: bool
    given: Tensor | None


def block_projections(adapter: Adapter, model: nn.Module, player: Player) -> tuple[OutputProjection, ...]:
    """The output projections of a player that is a block of a model with a layer stack."""
    stack = adapter.stack(model)
    if stack is None:
        return ()
    block, device = model.get_submodule(player.name), adapter.input_device(model)
    return found_projections(stack, player.index, block, player.name, device=device)


def found_projections(
    stack: LayerStack,
    index: int,
    block: nn.Module,
    name: str,
    *,
    device: torch.device,
    before: Collection[int] = (),
) -> tuple[OutputProjection, ...]:
    """The modules of a block whose outputs sum to its update of the residual stream.

    Runs one step on embedded tokens and solves for the update as a combination of module outputs: of linear
    maps first, then of the block's direct children, each represented by the linear map that it ends in, if
    any.

    Args:
        stack: the model's layer stack.
        index: of the block.
        block: the module that the step runs.
        name: the block's dotted path.
        device: for token ids.
        before: blocks that must run before this one.

    Returns:
        The projections in execution order; empty if the modules do not explain the update.
    """
    outputs: list[_Output] = []
    with torch.inference_mode():
        entering = stack.prelude(_token_ids(stack.batch_size or _BATCH, device))
        for earlier in sorted(before):
            entering = stack.step(earlier, entering)
        with ExitStack() as hooks:
            for handle in _watched(block, outputs):
                hooks.callback(handle.remove)
            after = stack.stream(stack.step(index, entering))
        added = after.double() - stack.stream(entering).double()
        outputs = _distinct(outputs, after.shape)
        for candidates in ([o for o in outputs if o.linear], [o for o in outputs if o.part]):
            chosen = _combination(candidates, added, after)
            if chosen:
                trial = _BiasTrial(stack, index, entering, after)
                modules = (output.module for output, _ in chosen)
                declared = _declared(chosen, [o for o in outputs if o.linear], name)
                return tuple(map(trial.with_bias, declared, modules))
    return ()


@dataclass(frozen=True, slots=True)
class _BiasTrial:
    """Runs one block with a parameter of one of its modules changed."""

    stack: LayerStack
    index: int
    entering: State
    after: Tensor

    def with_bias(self, projection: OutputProjection, module: nn.Module) -> OutputProjection:
        """A projection that is not linear, with the first parameter that adds to its output, if any."""
        if projection.linear or projection.normed:
            return projection
        biases = ((path, each) for path, each in module.named_parameters() if "bias" in path)
        width = self.after.shape[-1:]
        adding = (
            path for path, each in biases if each.shape[-1:] == width and self._adds(each, projection.factor)
        )
        path = next(adding, "")
        return replace(projection, bias=f"{projection.module}.{path}") if path else projection

    def _adds(self, parameter: nn.Parameter, factor: float) -> bool:
        """Whether what is added to all rows of a parameter is added to the stream, times a factor."""
        drawn = torch.randn(parameter.shape[-1], generator=torch.Generator().manual_seed(0))
        vector = (drawn * _root_mean_square(self.after)).to(parameter.dtype).to(parameter.device)
        before = parameter.detach().clone()
        parameter.data.add_(vector)
        try:
            found = self.stack.stream(self.stack.step(self.index, self.entering)).double()
        finally:
            parameter.data.copy_(before)
        left = _root_mean_square(found - self.after.double() - factor * vector.double())
        return left <= _ROUNDINGS * torch.finfo(self.after.dtype).eps * _root_mean_square(found)


def _token_ids(batch: int, device: torch.device) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(_VOCABULARY, (batch, _LENGTH), generator=generator).to(device)


def _watched(block: nn.Module, outputs: list[_Output]) -> Iterator[Any]:
    """Handles of hooks that record each module's output."""
    for path, module in block.named_modules():
        if module is not block:
            yield module.register_forward_hook(_note(path, outputs))


def _note(path: str, outputs: list[_Output]) -> Any:
    def note(module: nn.Module, args: tuple[Any, ...], returned: Any) -> None:
        first = returned[0] if isinstance(returned, tuple | list) and returned else returned
        if isinstance(first, Tensor):  # a copy, because some blocks add to it in place
            linear = _is_linear_map(module, args, first)
            given = _only_argument(module, args)
            outputs.append(_Output(path, module, first.clone(), "." not in path, linear, given))

    return note


def _only_argument(module: nn.Module, args: tuple[Any, ...]) -> Tensor | None:
    """A copy of what a module without modules of its own is given, if that is one tensor."""
    alone = len(args) == 1 and isinstance(args[0], Tensor) and not list(module.children())
    return args[0].clone() if alone and list(module.parameters()) else None


def _is_linear_map(module: nn.Module, args: tuple[Any, ...], given: Tensor) -> bool:
    """Whether a module has a linear class, its weights in memory, and the output that they give."""
    if not isinstance(module, nn.Linear | Conv1D) or hasattr(module, "_hf_hook") or len(args) != 1:
        return False
    if not module.weight.is_floating_point() or module.weight.dtype != given.dtype:
        return False
    weight = module.weight.t() if isinstance(module, Conv1D) else module.weight
    if args[0].shape[-1:] != weight.shape[1:] or given.shape != (*args[0].shape[:-1], len(weight)):
        return False  # not a plain map in spite of its class, for example one map per group of inputs
    expected = functional.linear(args[0], weight, module.bias)
    largest = float(expected.abs().max())
    return bool((expected - given).abs().max() <= _ROUNDINGS * torch.finfo(given.dtype).eps * largest)


def _distinct(outputs: Sequence[_Output], shape: torch.Size) -> list[_Output]:
    """One module per value, preferably a linear map, else the innermost; drops modules that run twice."""
    runs = [output.path for output in outputs]
    kept: list[_Output] = []
    for output in outputs:
        value = output.value
        if runs.count(output.path) > 1 or value.numel() != shape.numel() or value.shape[-1] != shape[-1]:
            continue
        found = replace(output, value=value.reshape(shape))
        same = [place for place, other in enumerate(kept) if torch.equal(other.value, found.value)]
        if not same:
            kept.append(found)
            continue
        first = kept[same[0]]
        kept[same[0]] = replace(found if found.linear else first, part=first.part or found.part)
    return kept


def _combination(candidates: Sequence[_Output], added: Tensor, after: Tensor) -> list[tuple[_Output, float]]:
    """The fewest candidates that combine to the update, with their factors; empty if none do."""
    used = list(candidates)
    while used:
        columns = torch.stack([output.value.double().flatten() for output in used], dim=1)
        factors = torch.linalg.lstsq(columns, added.flatten()[:, None]).solution[:, 0]
        left = _root_mean_square(columns @ factors - added.flatten())
        contributions = columns.square().mean(0).sqrt() * factors.abs()
        needed = contributions > _USED * contributions.max()
        if bool(needed.all()):
            steps = _ROUNDINGS * torch.finfo(after.dtype).eps * _root_mean_square(after.double())
            if left <= steps and left <= _EXPLAINED * _root_mean_square(added):
                return list(zip(used, factors.tolist(), strict=True))
            return []
        used = [output for output, need in zip(used, needed.tolist(), strict=True) if need]
    return []


def _root_mean_square(values: Tensor) -> float:
    return float(values.double().square().mean().sqrt())


def _declared(
    chosen: Sequence[tuple[_Output, float]], maps: Sequence[_Output], name: str
) -> Iterator[OutputProjection]:
    """The projections of chosen modules; of a norm, with the one of the maps whose output it normalises."""
    last = len(chosen) - 1
    for place, (output, factor) in enumerate(chosen):
        inner = None if output.linear else _normed(output, maps)
        yield OutputProjection(
            module=f"{name}.{output.path}",
            role="mlp" if place == last and place > 0 else "mixer",
            factor=1.0 if abs(factor - 1) < _UNIT else factor,
            linear=output.linear,
            transposed=isinstance((inner or output).module, Conv1D),
            normed=f"{name}.{inner.path}" if inner else "",
        )


def _normed(output: _Output, maps: Sequence[_Output]) -> _Output | None:
    """The linear map whose output a module normalises, if it does that."""
    given = output.given
    same = (each for each in maps if given is not None and torch.equal(each.value.flatten(), given.flatten()))
    inner = next(same, None)
    if inner is None:
        return None
    before, after = (found.flatten(0, -2).double() for found in (inner.value, output.value))
    by_token, by_channel = norm_factors(before, after)
    left = _root_mean_square(before * by_token[:, None] * by_channel - after)
    steps = _ROUNDINGS * torch.finfo(output.value.dtype).eps * _root_mean_square(after)
    return inner if left <= steps else None
