"""Observe each expert's output in forward passes of the whole model."""

import inspect
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from shapcut.contracts import ExpertStatistic, UnsupportedModelError
from shapcut_adapters.transformers.experts.layout import Mixture
from shapcut_adapters.transformers.experts.partial import EXPERTS_ARGUMENTS
from shapcut_adapters.transformers.offload import resident


class _Sums:
    """What is summed over the tokens of each expert of a mixture: tokens, norms, weighted norms."""

    def __init__(self, mixture: Mixture) -> None:
        self.tokens = 0
        self.sums = torch.zeros(3, mixture.count, dtype=torch.float64)

    def statistics(self) -> dict[ExpertStatistic, NDArray[np.float64]]:
        """See `Adapter.expert_statistics`."""
        tokens, norms, weighted = self.sums.numpy()
        return {
            "frequency": tokens / max(self.tokens, 1),
            "ean": norms,
            "reap": weighted / np.maximum(tokens, 1.0),
        }


def expert_statistics(
    mixtures: Sequence[Mixture], run: Callable[[], object]
) -> dict[ExpertStatistic, NDArray[np.float64]]:
    """Statistics of all experts, in order.

    Args:
        mixtures: the mixtures of the layers that have one.
        run: runs the whole model.

    Raises:
        UnsupportedModelError: if experts are not told which tokens go to whom.
    """
    found = [_Sums(mixture) for mixture in mixtures]
    with ExitStack() as hooks:
        for mixture, sums in zip(mixtures, found, strict=True):
            if len(inspect.signature(type(mixture.experts).forward).parameters) != EXPERTS_ARGUMENTS + 1:
                raise _unobservable(mixture)
            hook = mixture.experts.register_forward_pre_hook(partial(_observe, mixture, sums))
            hooks.callback(hook.remove)
        run()
    parts = [sums.statistics() for sums in found]
    names: tuple[ExpertStatistic, ...] = ("frequency", "ean", "reap")
    return {name: np.concatenate([part[name] for part in parts]) for name in names}


def _observe(mixture: Mixture, sums: _Sums, experts: nn.Module, args: tuple[Tensor, ...]) -> None:
    """Run each expert on its tokens, with a weight of 1.

    It is chosen a second time with a weight of 0, because some experts cannot be told a single choice.
    """
    if len(args) != EXPERTS_ARGUMENTS or args[1].shape != args[2].shape:
        raise _unobservable(mixture)
    hidden, indices, weights = (each.reshape(-1, each.shape[-1]) for each in args)
    forward = type(experts).forward.__get__(experts)
    sums.tokens += len(hidden)
    with resident(mixture.module):
        for expert in range(mixture.count):
            rows, places = torch.where(indices == expert)
            if len(rows):
                twice = indices.new_full((len(rows), 2), expert)
                only = weights.new_tensor([1.0, 0.0]).repeat(len(rows), 1)
                norms = forward(hidden[rows], twice, only).reshape(len(rows), -1).double().norm(dim=-1)
                found = torch.stack([torch.ones_like(norms), norms, norms * weights[rows, places]])
                sums.sums[:, expert] += found.sum(dim=1).cpu()


def _unobservable(mixture: Mixture) -> UnsupportedModelError:
    return UnsupportedModelError(
        f"the experts of {mixture.path} cannot be observed; choose a method that measures coalitions"
    )
