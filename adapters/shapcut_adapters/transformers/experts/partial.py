"""Run a mixture of experts as if it had only some of its experts."""

import copy
import inspect
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from shapcut_adapters.shared.forwards import Forward, replaced_forward
from shapcut_adapters.transformers.experts.layout import COUNT_FIELDS, TOP_K_FIELDS, Mixture
from shapcut_adapters.transformers.offload import resident

EXPERTS_ARGUMENTS = 3
"""Of experts that are told which tokens go to whom: hidden states, indices, weights."""


@contextmanager
def present_experts(mixture: Mixture, experts: Collection[int]) -> Iterator[None]:
    """Route tokens only to some experts of a mixture while the context is open.

    The router runs with their rows only, and its choice is translated to their numbers; the experts' weights
    stay where they are. With fewer experts than a token is routed to, it is routed to all of them; without
    any, the experts give zero. Contexts nest.
    """
    module = mixture.module
    before = vars(module).get("forward")
    forward: Forward = before or type(module).forward.__get__(module)
    kept = set(experts)
    if isinstance(before, PartialForward):
        forward, kept = before.forward, kept & set(before.kept)
    with replaced_forward(module, PartialForward(mixture, tuple(sorted(kept)), forward)):
        yield


class PartialForward:
    """The forward of a mixture with some of its experts.

    Args:
        mixture: whose forward it is.
        kept: the experts, in order.
        forward: that of the whole mixture.
    """

    def __init__(self, mixture: Mixture, kept: tuple[int, ...], forward: Forward) -> None:
        self.kept = kept
        self.forward = forward
        self._mixture = mixture

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the mixture."""
        mixture, kept = self._mixture, self.kept
        if len(kept) == mixture.count:
            return self.forward(*args, **kwargs)
        with ExitStack() as stack:
            stack.enter_context(resident(mixture.module))
            if not kept:
                tensors = _without_experts(stack, mixture)
            elif mixture.ranks_groups and mixture.objection(kept):
                tensors = _with_masked_router(stack, mixture, kept)
            else:
                tensors = _with_shorter_router(stack, mixture, kept)
            return _called(mixture.module, self.forward, tensors, args, kwargs)


class _Call(nn.Module):
    """A call of a module's forward, to which `functional_call` passes other tensors."""

    def __init__(self, module: nn.Module, forward: Forward) -> None:
        super().__init__()
        self.module = module
        self._forward = forward
        self.train(module.training)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self._forward(*args, **kwargs)


def _called(
    module: nn.Module, forward: Forward, tensors: Mapping[str, Tensor], args: Any, kwargs: Any
) -> Any:
    named = {f"module.{path}": tensor for path, tensor in tensors.items()}
    return functional_call(_Call(module, forward), named, args, kwargs)


def _without_experts(stack: ExitStack, mixture: Mixture) -> dict[str, Tensor]:
    """Let the experts give nothing; the router's choice does not matter."""

    def nothing(hidden_states: Tensor, *_args: Any, **_kwargs: Any) -> Tensor:
        return torch.zeros_like(hidden_states)

    stack.enter_context(replaced_forward(mixture.experts, nothing))
    return {}


def _with_shorter_router(stack: ExitStack, mixture: Mixture, kept: tuple[int, ...]) -> dict[str, Tensor]:
    """Let the router have the rows of some experts; returns its tensors."""
    modules = [mixture.module, *mixture.router.modules()]
    tables = list(mixture.routing)
    experts = mixture.experts
    if len(inspect.signature(type(experts).forward).parameters) == EXPERTS_ARGUMENTS + 1:
        numbers = (*kept, *range(mixture.count, mixture.choices))
        stack.enter_context(replaced_forward(experts, _translated(experts, numbers)))
    else:  # each expert is given all tokens, in order
        modules += experts.modules()
        tables += mixture.weights
    stack.enter_context(_shorter(mixture, modules, len(kept)))
    return {table.path: table.kept(table.of(mixture.module), kept, mixture.count) for table in tables}


def _with_masked_router(stack: ExitStack, mixture: Mixture, kept: tuple[int, ...]) -> dict[str, Tensor]:
    """Let the router score absent experts as impossible, for groups that it cannot rank; returns its tensors.

    An absent expert is chosen only where the chosen groups have too few others, with weight zero, and another
    stands in for it.
    """
    router, module = mixture.router, mixture.module
    absent = [expert for expert in range(mixture.count) if expert not in kept]
    forward = vars(router).get("forward") or type(router).forward.__get__(router)

    def masked(*args: Any, **kwargs: Any) -> Any:
        with _Masked(absent, mixture.count):
            return forward(*args, **kwargs)

    numbers = [expert if expert in kept else kept[0] for expert in range(mixture.count)]
    stack.enter_context(replaced_forward(router, masked))
    stack.enter_context(replaced_forward(mixture.experts, _translated(mixture.experts, numbers)))
    biases = [(table.path, table.of(module)) for table in mixture.routing]
    return {path: _impossible(bias, absent) for path, bias in biases if bias.dim() == 1}


class _Masked(TorchFunctionMode):
    """Sets the logits of absent experts to minus infinity."""

    def __init__(self, absent: Collection[int], count: int) -> None:
        super().__init__()
        self._absent = list(absent)
        self._count = count

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = func(*args, **(kwargs or {}))
        if func is functional.linear and given.shape[-1] == self._count:
            return _impossible(given, self._absent)
        return given


def _impossible(scores: Tensor, absent: Collection[int]) -> Tensor:
    """Scores with minus infinity at absent experts."""
    return scores.index_fill(-1, torch.tensor(list(absent), device=scores.device), -torch.inf)


def _translated(experts: nn.Module, numbers: Collection[int]) -> Forward:
    """The experts' forward for indices of a router that numbers them otherwise."""
    forward = vars(experts).get("forward") or type(experts).forward.__get__(experts)

    def run(hidden_states: Tensor, indices: Tensor, weights: Tensor) -> Any:
        translation = torch.tensor(tuple(numbers), device=indices.device)
        return forward(hidden_states, translation[indices], weights)

    return run


@contextmanager
def _shorter(mixture: Mixture, modules: Collection[nn.Module], left: int) -> Iterator[None]:
    """Let modules count only the experts that are left."""
    gone = mixture.count - left
    top_k = min(mixture.top_k, mixture.choices - gone)
    edits = [(module, name, vars(module)[name] - gone) for module, name in mixture.counters(modules)]
    edits += [(module, "top_k", top_k) for module in modules if "top_k" in vars(module)]
    configs = [module for module in modules if "config" in vars(module) and module is not mixture.experts]
    edits += [(module, "config", _shorter_config(module.config, left, top_k)) for module in configs]
    before = [(module, name, vars(module)[name]) for module, name, _ in edits]
    try:
        for module, name, value in edits:
            setattr(module, name, value)
        yield
    finally:
        for module, name, value in before:
            setattr(module, name, value)


def _shorter_config(config: Any, left: int, top_k: int) -> Any:
    """A copy of a config, for routers that read it in their forward."""
    shorter = copy.copy(config)
    for name in COUNT_FIELDS:
        if name in vars(shorter):
            setattr(shorter, name, left)
    for name in TOP_K_FIELDS:
        if name in vars(shorter):
            setattr(shorter, name, top_k)
    return shorter
