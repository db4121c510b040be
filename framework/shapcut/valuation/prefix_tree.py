"""Evaluation of many coalitions in one pass over the layers.

Coalitions that agree on the layers so far share one state: a prefix tree, walked breadth first. States are
cached by the layers that produced them, across calls; the path on which every layer runs (the *trunk*) is
never evicted. States are batched through a layer only if a trial shows that the result is bitwise identical
to running each alone, so that a coalition's value does not depend on the other rows of a call.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle, islice

import numpy as np
import torch
from torch import Tensor

from shapcut.game.coalitions import CoalitionMatrix
from shapcut.game.game import Measurements
from shapcut.models.layer_stack import LayerStack, State
from shapcut.support.errors import InputError
from shapcut.valuation.compiled import Fused
from shapcut.valuation.evaluator import Evaluator, Work
from shapcut.valuation.readout import Readout, make_readout
from shapcut.valuation.state_memory import StateMemory, divide_memory, state_bytes
from shapcut.valuation.step_probe import divided, examine, joined
from shapcut.valuation.utilities import Measure

TOKENS_PER_STEP = 16_384
MOST_STATES_PER_STEP = 8
COALITIONS_BEFORE_TRIAL = 64
"""Coalitions to evaluate before the trial of batched states, which costs as much as tens of coalitions."""


@dataclass(frozen=True, slots=True)
class Placement:
    """How evaluation uses the machine.

    Attributes:
        memory_budget: bytes for states; decides the chunk size.
        fuse: whether to fuse the readout, and steps that are short and regular enough.
        sequences_per_step: maximum sequences per layer call; None: by their length.
    """

    memory_budget: int
    fuse: bool = False
    sequences_per_step: int | None = None


class CoalitionEvaluator(Evaluator):
    """Means of a per-token measure for coalitions of one model on one calibration batch.

    Args:
        stack: the model's layer stack.
        n_players: number of layers in the stack.
        input_ids: calibration tokens, shape (batch, length), on the stack's device.
        measure: the quantity averaged over tokens.
        placement: how to use the machine.

    Raises:
        InputError: if the stack's fixed batch size does not divide the calibration batch.
    """

    def __init__(
        self, stack: LayerStack, n_players: int, input_ids: Tensor, measure: Measure, placement: Placement
    ) -> None:
        self.stack = stack
        self.n_players = n_players
        self.work = Work()
        self.states_per_step = 1
        batch, length = input_ids.shape
        if stack.batch_size and batch % stack.batch_size:
            raise InputError(
                f"this model takes {stack.batch_size} sequences at a time, but got {batch} samples; use a "
                f"multiple of {stack.batch_size}"
            )
        most = placement.sequences_per_step or max(1, TOKENS_PER_STEP // length)
        self._rows = stack.batch_size or most
        with torch.inference_mode():
            entering = stack.prelude(input_ids)
            regularity = examine(stack, n_players, entering)
            may_share = regularity.fixed and stack.batch_size is None
            self._states_to_try = min(most // batch, MOST_STATES_PER_STEP) if may_share else 1
            self.fused = placement.fuse and regularity.fusible and stack.fuse(Fused)
            final = self._walk_trunk(entering, placement.memory_budget)
            self._readout: Readout = make_readout(measure, stack, input_ids, final, fuse=placement.fuse)
            self.full = self._readout.measurements([final])[0].cpu().numpy()

    def _walk_trunk(self, entering: State, budget: int) -> State:
        """Run every layer, divide the memory, return the final state."""
        division = divide_memory(state_bytes(entering), self.n_players, budget)
        self.chunk_size = division.chunk_size
        self._known = StateMemory(division.remembered)
        self._known.pin(0, entering)
        state, layers = entering, 0
        for layer in range(self.n_players):
            with self.stack.resident(layer):
                (state,) = self._step(layer, [state])
            layers |= 1 << layer
            if division.keeps_trunk:
                self._known.pin(layers, state)
        return state

    def _try_sharing(self) -> None:
        """Find the largest number of states that every layer can batch exactly."""
        count, self._states_to_try = self._states_to_try, 1
        with torch.inference_mode():
            while count > 1 and not self._share_exactly(count):
                count //= 2
        self.states_per_step = count

    def _share_exactly(self, count: int) -> bool:
        """Whether batching ``count`` states is bitwise identical to running each alone.

        Tried on the trunk's last two states before each layer, in turn; at every layer, because kernels that
        sum in another order sometimes give the same bits by chance.
        """
        (before,) = (state,) = self._remembered([0]).values()
        for layer in range(self.n_players):
            after = self._known.get((1 << layer + 1) - 1)
            with self.stack.resident(layer):
                after = self._run(layer, state) if after is None else after
                alone = cycle([after, self._run(layer, before)])
                together = self.stack.step(layer, joined(list(islice(cycle([state, before]), count))))
            expected = joined(list(islice(alone, count)))
            if not all(torch.equal(a, b) for a, b in zip(together, expected, strict=True)):
                return False
            before, state = state, after
        return True

    def measurements(self, coalitions: CoalitionMatrix) -> Measurements:
        """See `Evaluator.measurements`."""
        self.work.coalitions += len(coalitions)
        if self._states_to_try > 1 and self.work.coalitions >= COALITIONS_BEFORE_TRIAL:
            self._try_sharing()
        order = np.lexsort(coalitions.T[::-1])
        means = np.empty((len(coalitions), 3), dtype=np.float64)
        for start in range(0, len(order), self.chunk_size):
            rows = order[start : start + self.chunk_size]
            means[rows] = self._chunk(coalitions[rows])
        return means

    def _chunk(self, coalitions: CoalitionMatrix) -> Measurements:
        """Walk the layers breadth first; ``paths[r]`` is the set of layers that row r has run so far."""
        with torch.inference_mode():
            paths, states = [0] * len(coalitions), self._remembered([0])
            for layer in range(self.n_players):
                runs = coalitions[:, layer].tolist()
                paths = [path | run << layer for path, run in zip(paths, runs, strict=True)]
                states = self._advance(layer, states, set(paths))
            means = torch.stack(self._readout.measurements(list(states.values()))).cpu().tolist()
        final = dict(zip(states, means, strict=True))
        return np.array([final[path] for path in paths], dtype=np.float64)

    def _remembered(self, paths: Sequence[int]) -> dict[int, State]:
        """The cached states among ``paths``."""
        known = ((path, self._known.get(path)) for path in paths)
        return {path: state for path, state in known if state is not None}

    def _advance(self, layer: int, states: dict[int, State], wanted: set[int]) -> dict[int, State]:
        """Advance the states before a layer to those of the wanted paths after it."""
        running = sorted(path for path in wanted if path >> layer & 1)
        after = {path: states[path] for path in wanted if not path >> layer & 1} | self._remembered(running)
        missing = [path for path in running if path not in after]
        if missing:
            with self.stack.resident(layer):
                for start in range(0, len(missing), self.states_per_step):
                    group = missing[start : start + self.states_per_step]
                    results = self._step(layer, [states[path ^ 1 << layer] for path in group])
                    after.update(zip(group, results, strict=True))
        for path in missing:
            self._known.keep(path, after[path])
        return after

    def _step(self, layer: int, states: list[State]) -> list[State]:
        """Run one layer on several states: batched if that many may share a step, else one by one."""
        self.work.block_runs += len(states)
        if 1 < len(states) == self.states_per_step:
            return divided(self.stack.step(layer, joined(states)), len(states))
        return [self._run(layer, state) for state in states]

    def _run(self, layer: int, state: State) -> State:
        rows, batch = self._rows, state[0].shape[0]
        if rows >= batch:
            return self.stack.step(layer, state)
        parts = [tuple(tensor[start : start + rows] for tensor in state) for start in range(0, batch, rows)]
        return joined([self.stack.step(layer, part) for part in parts])
