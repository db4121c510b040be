"""Inputs of the linear layers, block by block, while earlier blocks change."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from shapcut.contracts import Adapter, LayerStack, State

_SEQUENCES = 8

Observe = Callable[[Tensor], None]
"""Called with a layer's input, shape (batch, length, width)."""


class BlockRunner:
    """Runs a model block by block on calibration text.

    Args:
        adapter: the model's adapter.
        model: the model; its blocks may change between calls.
        input_ids: shape (samples, length).
    """

    def __init__(self, adapter: Adapter, model: nn.Module, input_ids: Tensor) -> None:
        self._adapter = adapter
        self._model = model
        self._stack: LayerStack | None = adapter.stack(model)
        device = adapter.input_device(model)
        size = (self._stack and self._stack.batch_size) or _SEQUENCES
        self._ids = [part.to(device) for part in torch.split(input_ids, size)]
        self._states: list[State] = []
        if self._stack is not None:
            with torch.no_grad():
                self._states = [self._stack.prelude(part) for part in self._ids]

    def observe(self, index: int, layers: Mapping[nn.Module, Observe]) -> None:
        """Run block ``index`` on all text and pass the inputs of ``layers`` to their observers."""
        with ExitStack() as hooks, torch.no_grad():
            for layer, show in layers.items():
                handle = layer.register_forward_pre_hook(_showing(show))
                hooks.callback(handle.remove)
            for _ in self._outputs(index):
                pass

    def advance(self, index: int) -> None:
        """Move on to the states after block ``index`` in its current form."""
        if self._stack is not None:
            with torch.no_grad():
                self._states = list(self._outputs(index))

    def _outputs(self, index: int) -> Iterator[State]:
        """The states after a block; without a layer stack, run the whole model and yield its logits."""
        if self._stack is None:
            for part in self._ids:
                yield (self._adapter.logits(self._model, part),)
            return
        for state in self._states:
            yield self._stack.step(index, state)


def _showing(show: Observe) -> Callable[[nn.Module, tuple[Any, ...]], None]:
    def hook(_layer: nn.Module, args: tuple[Any, ...]) -> None:
        show(args[0])

    return hook
