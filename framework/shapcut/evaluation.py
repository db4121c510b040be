"""The value of many coalitions in one pass over the layers.

Coalitions that agree on the layers so far share one state: a prefix tree, walked breadth first. The path
on which every layer runs (the *trunk*) is kept between calls. Every step takes one group's calibration
batch, never a mixture of groups, so a coalition's value does not depend on the company it is asked in.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from shapcut.adapter import Adapter, Granularity, LayerStack, State
from shapcut.coalitions import CoalitionMatrix
from shapcut.errors import InputError
from shapcut.readout import Readout, make_readout, token_quantity
from shapcut.utilities import Measure

TOKENS_PER_STEP = 16_384


def state_bytes(state: State) -> int:
    """Memory of one state."""
    return sum(tensor.numel() * tensor.element_size() for tensor in state)


@dataclass(slots=True)
class Work:
    """What evaluation has cost so far: block runs over the whole calibration batch, and coalitions."""

    block_runs: int = 0
    coalitions: int = 0


class Evaluator(Protocol):
    """Measures coalitions of one model on one calibration batch."""

    work: Work
    full_mean: float

    def means(self, coalitions: CoalitionMatrix) -> NDArray[np.float64]:
        """The measure's mean over tokens for each row, shape (n_coalitions,); may be non-finite."""


class CoalitionEvaluator:
    """Means of a per-token measure for coalitions of one model on one calibration batch.

    Args:
        stack: the model taken apart.
        n_players: number of layers in the stack.
        input_ids: calibration tokens, shape (batch, length), on the stack's device.
        measure: what is averaged over tokens.
        memory_budget: bytes that states may take; decides how many coalitions go together.

    Raises:
        InputError: if the stack's fixed batch size does not divide the calibration batch.
    """

    def __init__(
        self, stack: LayerStack, n_players: int, input_ids: Tensor, measure: Measure, memory_budget: int
    ) -> None:
        self.stack = stack
        self.n_players = n_players
        self.work = Work()
        self._rows = stack.batch_size or max(1, TOKENS_PER_STEP // input_ids.shape[1])
        if stack.batch_size and input_ids.shape[0] % stack.batch_size:
            raise InputError(
                f"this model takes {stack.batch_size} sequences at a time: choose a multiple of it as the "
                f"number of samples, not {input_ids.shape[0]}"
            )
        with torch.inference_mode():
            self._trunk: list[State] = [stack.prelude(input_ids)]
            per_state = state_bytes(self._trunk[0])
            keep_trunk = per_state * (n_players + 1) <= memory_budget // 2
            state = self._trunk[0]
            for layer in range(n_players):
                state = self._step(layer, state)
                if keep_trunk:
                    self._trunk.append(state)
            self._readout: Readout = make_readout(measure, stack, input_ids, state)
            self.full_mean = float(self._readout.means([state])[0])
        left = memory_budget - per_state * len(self._trunk)
        self.chunk_size = max(1, min(256, left // (2 * per_state)))

    def means(self, coalitions: CoalitionMatrix) -> NDArray[np.float64]:
        """The measure's mean over tokens for each row, shape (n_coalitions,); may be non-finite."""
        order = np.lexsort(coalitions.T[::-1])
        means = np.empty(len(coalitions), dtype=np.float64)
        for start in range(0, len(order), self.chunk_size):
            rows = order[start : start + self.chunk_size]
            means[rows] = self._chunk(coalitions[rows])
        self.work.coalitions += len(coalitions)
        return means

    def _chunk(self, coalitions: CoalitionMatrix) -> NDArray[np.float64]:
        """Breadth first through the layers; ``group[r]`` is the state that row r shares with others."""
        with torch.inference_mode():
            first = min(self._first_absent(coalitions), len(self._trunk) - 1)
            states = [self._trunk[first]]
            group: NDArray[np.int64] = np.zeros(len(coalitions), dtype=np.int64)
            for layer in range(first, self.n_players):
                states, group = self._advance(layer, states, group, coalitions[:, layer])
            finals = torch.stack(self._readout.means(states))
            return finals.cpu().numpy()[group]

    def _first_absent(self, coalitions: CoalitionMatrix) -> int:
        """The first layer that some row lacks."""
        lacking = np.flatnonzero(~coalitions.all(axis=0))
        return int(lacking[0]) if len(lacking) else self.n_players

    def _advance(
        self, layer: int, states: Sequence[State], group: NDArray[np.int64], runs: NDArray[np.bool_]
    ) -> tuple[list[State], NDArray[np.int64]]:
        """One layer for all groups: each splits into the rows that run the layer and those that skip it."""
        branches, new_group = np.unique(2 * group + runs, return_inverse=True)
        advanced: list[State] = []
        for branch in branches.tolist():
            state = states[branch // 2]
            advanced.append(self._run(layer, state) if branch % 2 else state)
        return advanced, new_group

    def _run(self, layer: int, state: State) -> State:
        on_trunk = layer + 1 < len(self._trunk) and state is self._trunk[layer]
        return self._trunk[layer + 1] if on_trunk else self._step(layer, state)

    def _step(self, layer: int, state: State) -> State:
        self.work.block_runs += 1
        rows, batch = self._rows, state[0].shape[0]
        if rows >= batch:
            return self.stack.step(layer, state)
        parts = [
            self.stack.step(layer, tuple(tensor[start : start + rows] for tensor in state))
            for start in range(0, batch, rows)
        ]
        return tuple(torch.cat(tensors) for tensors in zip(*parts, strict=True))


class BypassEvaluator:
    """The reference semantics: a forward pass for each coalition with the absent players bypassed.

    Slow and universal; what the fast path is tested against, and what serves models that have none. Takes
    the arguments of `CoalitionEvaluator` with a model and its adapter in place of the stack.
    """

    def __init__(
        self,
        adapter: Adapter,
        model: nn.Module,
        input_ids: Tensor,
        measure: Measure,
        granularity: Granularity = "block",
    ) -> None:
        self.work = Work()
        self._adapter = adapter
        self._model = model
        self._input_ids = input_ids
        self._measure: Measure = measure
        self._granularity: Granularity = granularity
        n_players = len(adapter.players(model, granularity))
        self.full_mean = self._mean(np.ones(n_players, dtype=np.bool_))

    def means(self, coalitions: CoalitionMatrix) -> NDArray[np.float64]:
        """The measure's mean over tokens for each row, shape (n_coalitions,); may be non-finite."""
        self.work.coalitions += len(coalitions)
        self.work.block_runs += int(coalitions.sum())
        return np.array([self._mean(row) for row in coalitions], dtype=np.float64)

    def _mean(self, coalition: NDArray[np.bool_]) -> float:
        present = np.flatnonzero(coalition).tolist()
        return float(
            torch.cat([self._tokens(row, present) for row in self._input_ids[:, None]]).double().mean()
        )

    def _tokens(self, row: Tensor, present: Sequence[int]) -> Tensor:
        full = self._adapter.logits(self._model, row) if self._measure == "kl" else None
        with self._adapter.bypass(self._model, present, self._granularity):
            logits = self._adapter.logits(self._model, row)
        return token_quantity(logits, row, full)
