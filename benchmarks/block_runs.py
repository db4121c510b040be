"""Counts block runs by the real evaluator on a stack without weights, whose states only report their size."""

import numpy as np
import torch
from torch import Tensor

from shapcut.game.coalitions import CoalitionMatrix
from shapcut.models.layer_stack import LayerStack, State
from shapcut.valuation.prefix_tree import CoalitionEvaluator, Placement


class WeightlessStack(LayerStack):
    """Blocks that do nothing, on states that take no memory.

    A state is one number, expanded to the shape of a hidden state: it reports the bytes of a real one.

    Args:
        width: of the hidden state.
        dtype: of the hidden state.
    """

    def __init__(self, width: int = 1, dtype: torch.dtype = torch.bfloat16) -> None:
        self._number = torch.zeros(1, dtype=dtype)
        self._width = width

    def prelude(self, input_ids: Tensor) -> State:
        """See `LayerStack.prelude`."""
        return (self._number.expand(*input_ids.shape, self._width),)

    def step(self, index: int, state: State) -> State:  # noqa: ARG002 - all blocks are alike
        """See `LayerStack.step`."""
        self._number.sort()  # like a router's choice, which keeps states from being copied into one batch
        return state

    def readout(self, state: State) -> Tensor:
        """See `LayerStack.readout`."""
        return self._number.expand(*state[0].shape[:2], 2)


class RunCounter:
    """Block runs of coalitions that are measured call by call with the same cached states.

    Args:
        n_players: number of blocks.
        shape: windows, length and width of the hidden state, in bfloat16.
        memory: bytes for states.
    """

    def __init__(self, n_players: int, shape: tuple[int, int, int] = (1, 2, 1), memory: int = 2**30) -> None:
        windows, length, width = shape
        ids = torch.zeros(windows, length, dtype=torch.long)
        # All windows go through a step together: otherwise their states would be copied.
        placement = Placement(memory, sequences_per_step=windows)
        self._evaluator = CoalitionEvaluator(WeightlessStack(width), n_players, ids, "nll", placement)

    def runs(self, coalitions: CoalitionMatrix, rows_per_call: int | None = None) -> float:
        """Block runs of these coalitions, over all windows."""
        before = self._evaluator.work.block_runs
        size = rows_per_call or max(1, len(coalitions))
        for part in np.split(coalitions, range(size, len(coalitions), size)):
            self._evaluator.means(part)
        return self._evaluator.work.block_runs - before
