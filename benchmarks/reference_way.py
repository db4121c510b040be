"""The way in which the paper's public code values a mask, as a peer to measure against.

A masked block's weights are copied, set to zero, and copied back after the whole model has run; a block of
zeros adds nothing to the residual stream. All logits are made at once. Its surrogate is called one row at a
time. Nothing of it is used by shapcut.

`ZeroedOutputs` and `RemovedLayers` are two other straightforward ways, which copy no weights.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - the name that PyTorch's users know
from numpy.typing import NDArray
from torch import Tensor, nn


class ReferenceWay:
    """Next-token losses of a model with some blocks masked.

    Args:
        model: the model, in the number format to measure in.
        blocks: its layers.
        input_ids: shape (samples, length).
        at_once: whether all samples go through the model together, or one after the other.
    """

    def __init__(
        self, model: nn.Module, blocks: nn.ModuleList, input_ids: Tensor, *, at_once: bool = True
    ) -> None:
        self.model = model
        self.blocks = blocks
        self.batches = [input_ids] if at_once else list(input_ids[:, None])

    @torch.no_grad()
    def losses(self, masks: NDArray[np.bool_]) -> NDArray[np.float64]:
        """Mean loss in nats for each mask (True: the block runs), shape (n_masks,)."""
        return np.array([self._loss(mask) for mask in masks])

    def _loss(self, mask: NDArray[np.bool_]) -> float:
        with self._masked(np.flatnonzero(~mask).tolist()):
            return float(np.mean([self._batch_loss(batch) for batch in self.batches]))

    def _batch_loss(self, batch: Tensor) -> float:
        logits = self.model(input_ids=batch, use_cache=False).logits
        predictions = logits[:, :-1].float().reshape(-1, logits.shape[-1])
        return float(F.cross_entropy(predictions, batch[:, 1:].reshape(-1)))

    @contextmanager
    def _masked(self, masked: list[int]) -> Iterator[None]:
        saved = [(weight, weight.clone()) for index in masked for weight in self.blocks[index].parameters()]
        for weight, _ in saved:
            weight.zero_()
        try:
            yield
        finally:
            for weight, copy in saved:
                weight.copy_(copy)


class ZeroedOutputs(ReferenceWay):
    """Masked blocks run too, but what they add to the residual stream is dropped."""

    @contextmanager
    def _masked(self, masked: list[int]) -> Iterator[None]:
        with ExitStack() as hooks:
            for index in masked:
                handle = self.blocks[index].register_forward_hook(_input_instead, with_kwargs=True)
                hooks.callback(handle.remove)
            yield


class RemovedLayers(ReferenceWay):
    """Masked blocks are taken out of the ModuleList and put back after the rest has run."""

    @contextmanager
    def _masked(self, masked: list[int]) -> Iterator[None]:
        whole = list(self.blocks)
        for index in reversed(masked):
            del self.blocks[index]
        try:
            yield
        finally:
            del self.blocks[:]
            self.blocks.extend(whole)


def _input_instead(_block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], _output: Any) -> Any:
    """A forward hook for a block that returns its hidden state as a tensor."""
    return args[0] if args else kwargs["hidden_states"]


def surrogate_network(players: int) -> nn.Module:
    """The paper's network, for the cost of its calls."""
    return nn.Sequential(nn.Linear(players, 2 * players), nn.CELU(), nn.Linear(2 * players, 1), nn.Sigmoid())


@torch.no_grad()
def surrogate_calls(network: nn.Module, masks: NDArray[np.bool_]) -> None:
    """Two calls a mask and player, one row each: with the player and without it."""
    for mask in masks:
        for player in range(masks.shape[1]):
            for present in (1.0, 0.0):
                row = torch.tensor(mask, dtype=torch.float32)
                row[player] = present
                network(row)
