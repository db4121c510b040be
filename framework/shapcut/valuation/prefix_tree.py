"""Evaluation of many coalitions in one pass over the layers.

Coalitions that agree on the layers so far share one state: a prefix tree, walked breadth first. A layer is
one player or holds several, see `LayerStack.stages`. A few windows of the text go through all coalitions
before the next few do, so that the states of hundreds of coalitions fit into memory whatever the model and
the length of the text. States are cached across calls, by their windows and the layers that they passed; the
path on which every layer runs (the *trunk*) stays where it fits.
States are batched through a layer only if a trial shows that the result is bitwise identical to running each
alone, and a layer call takes the same windows however many go together, so that a coalition's value depends
neither on the other rows of a call nor on the memory.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import cycle, islice

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from shapcut.game.coalitions import CoalitionMatrix
from shapcut.game.game import WindowMeans, WindowPart
from shapcut.models.layer_stack import LayerStack, State
from shapcut.support.errors import InputError
from shapcut.valuation.compiled import Fused
from shapcut.valuation.evaluator import Evaluator, Work
from shapcut.valuation.paths import Paths
from shapcut.valuation.readout import make_readout
from shapcut.valuation.state_memory import StateMemory, divide_memory, most_windows_per_step, state_bytes
from shapcut.valuation.step_probe import Regularity, cut, divided, examine, joined
from shapcut.valuation.utilities import Measure

MOST_TOKENS_PER_STEP = 16_384
MOST_STATES_PER_STEP = 8
"""Of several states in a layer call."""

COALITIONS_BEFORE_TRIAL = 64
"""Coalitions to evaluate before the trial of batched states, which costs as much as tens of coalitions."""

_SECONDS_A_PART = 10.0
_FEWEST_ROWS, _FIRST_ROWS = 8, 32


@dataclass(frozen=True, slots=True)
class Placement:
    """How evaluation uses the machine.

    Attributes:
        memory_budget: bytes for states; decides how many windows go together, and the chunk size.
        fuse: whether to fuse the readout, and steps that are short and regular enough.
        sequences_per_step: maximum sequences per layer call; None: by their length.
        sampled: whether to read out a part of a large vocabulary, see `SampledLoss`.
        whole_first: whether to run the whole model first, whose states then serve the coalitions.
    """

    memory_budget: int
    fuse: bool = False
    sequences_per_step: int | None = None
    sampled: bool = False
    whole_first: bool = True


class CoalitionEvaluator(Evaluator):
    """Means of a per-token measure for coalitions of one model on one calibration batch.

    Args:
        stack: the model's layer stack.
        n_players: number of players in the stack.
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
        self._paths = Paths(stack.stages(n_players))
        self.states_per_step = 1
        self._ids = input_ids
        batch, length = input_ids.shape
        self.work = Work(batch)
        if stack.batch_size and batch % stack.batch_size:
            raise InputError(
                f"this model takes {stack.batch_size} sequences at a time, but got {batch} samples; use a "
                f"multiple of {stack.batch_size}"
            )
        self._step_windows = stack.batch_size or most_windows_per_step(
            (batch, length), placement.sequences_per_step
        )
        with torch.inference_mode():
            self._entering = stack.prelude(input_ids)
            self.fused = placement.fuse and self._regularity.fusible and stack.fuse(Fused)
            self._divide(state_bytes(self._entering) // batch, placement.memory_budget)
            most = placement.sequences_per_step or max(1, MOST_TOKENS_PER_STEP // length)
            may_share = stack.batch_size is None and all(len(stage) == 1 for stage in self._paths.stages)
            self._states_to_try = min(most // self.windows_together, MOST_STATES_PER_STEP) if may_share else 1
            self._readout = make_readout(
                measure,
                stack,
                input_ids,
                self._step_windows,
                fuse=placement.fuse,
                sampled=placement.sampled,
            )
        if placement.whole_first or self._readout.compares:
            _ = self.full

    @cached_property
    def full(self) -> NDArray[np.float64]:
        """See `Evaluator.full`."""
        with torch.inference_mode():
            return np.concatenate([self._walk_trunk(*some) for some in self._groups(0, len(self._ids))])

    @cached_property
    def _regularity(self) -> Regularity:
        return examine(self.stack, len(self._paths), self._entering)

    def _divide(self, window: int, budget: int) -> None:
        division = divide_memory(window, len(self._ids), self._step_windows, len(self._paths), budget)
        self.windows_together = division.windows
        self.chunk_size = division.chunk_size
        self._most_rows = (
            division.chunk_size if self.stack.loads_weights else min(_FIRST_ROWS, division.chunk_size)
        )
        self._keeps_trunk = division.keeps_trunk
        self._known = StateMemory(division.remembered)

    def _groups(self, first: int, last: int) -> Iterator[tuple[int, int]]:
        """The windows that go together, from ``first`` to before ``last``: as ranges of the same kind."""
        while first < last:
            stop = min((first // self.windows_together + 1) * self.windows_together, last)
            yield first, stop
            first = stop

    def _walk_trunk(self, first: int, last: int) -> NDArray[np.float64]:
        """Run every layer on windows that go together; return the means of each."""
        state = cut(self._entering, first, last)
        for layer in range(len(self._paths)):
            with self.stack.resident(layer):
                (state,) = self._step(layer, [state])
            if self._keeps_trunk:
                self._known.pin((first, self._paths.trunk(layer + 1)), state)
        self._readout.take_full(state, first)
        means: NDArray[np.float64] = self._readout.window_means([state], first)[0].cpu().numpy()
        return means

    def _state(self, path: int, first: int, last: int) -> State | None:
        """The state of some windows after the layers of a path, if it is known."""
        recent = self._known.get((first, path))
        if recent is not None and first + recent[0].shape[0] >= last:
            return cut(recent, 0, last - first)
        begin = first // self.windows_together * self.windows_together
        pinned = self._known.get((begin, path))
        if pinned is not None and begin + pinned[0].shape[0] >= last:
            return cut(pinned, first - begin, last - begin)
        return None

    def _try_sharing(self) -> None:
        """Find the largest number of states that every layer can batch exactly."""
        count, self._states_to_try = self._states_to_try, 1
        with torch.inference_mode():
            if not self._regularity.fixed:
                return
            while count > 1 and not self._share_exactly(count):
                count //= 2
        self.states_per_step = count

    def _share_exactly(self, count: int) -> bool:
        """Whether batching ``count`` states is bitwise identical to running each alone.

        Tried on the trunk's last two states before each layer, in turn; at every layer, because kernels that
        sum in another order sometimes give the same bits by chance.
        """
        before = state = cut(self._entering, 0, self.windows_together)
        for layer in range(len(self._paths)):
            after = self._known.get((0, self._paths.trunk(layer + 1)))
            with self.stack.resident(layer):
                after = self._run(layer, state) if after is None else after
                alone = cycle([after, self._run(layer, before)])
                placed = [self.stack.placed(layer, each) for each in islice(cycle([state, before]), count)]
                together = self.stack.step(layer, joined(placed))
            expected = joined(list(islice(alone, count)))
            if not all(torch.equal(a, b) for a, b in zip(together, expected, strict=True)):
                return False
            before, state = state, after
        return True

    def parts(self, coalitions: CoalitionMatrix, first: int, last: int) -> Iterator[WindowPart]:
        """See `Evaluator.parts`: by a few windows, and for these by coalitions that share prefixes."""
        names = [row.tobytes() for row in np.packbits(coalitions, axis=1)]
        order = np.array(sorted(range(len(names)), key=names.__getitem__), dtype=np.intp)
        for start, stop in self._groups(first, last):
            done = 0
            while done < len(order):
                rows = order[done : done + self._most_rows]
                began = time.monotonic()
                yield WindowPart(rows, start, self._chunk(coalitions[rows], start, stop))
                self._adapt(len(rows), time.monotonic() - began)
                done += len(rows)

    def _adapt(self, rows: int, seconds: float) -> None:
        """Let the next part take some seconds, so that little is lost when the process ends."""
        if self.stack.loads_weights:
            return
        fitting = max(_FEWEST_ROWS, round(rows * _SECONDS_A_PART / max(seconds, 1e-6)))
        self._most_rows = min(fitting, 4 * max(rows, self._most_rows), self.chunk_size)

    def _chunk(self, coalitions: CoalitionMatrix, first: int, last: int) -> WindowMeans:
        """Walk the layers breadth first; ``paths[r]`` is what row r has run so far."""
        self.work.window_coalitions += len(coalitions) * (last - first)
        if self._states_to_try > 1 and self.work.coalitions >= COALITIONS_BEFORE_TRIAL:
            self._try_sharing()
        with torch.inference_mode():
            paths, states = [0] * len(coalitions), {0: cut(self._entering, first, last)}
            for layer in range(len(self._paths)):
                paths = self._paths.extended(layer, paths, coalitions)
                states = self._advance(layer, states, set(paths), (first, last))
            means = self._readout.window_means(list(states.values()), first).cpu().numpy()
        final = dict(zip(states, means, strict=True))
        return np.stack([final[path] for path in paths])

    def _advance(
        self, layer: int, states: dict[int, State], wanted: set[int], windows: tuple[int, int]
    ) -> dict[int, State]:
        """Advance the states before a layer to those of the wanted paths after it."""
        running = sorted(path for path in wanted if self._paths.runs(layer, path))
        after = {path: states[path] for path in wanted.difference(running)}
        known = ((path, self._state(path, *windows)) for path in running)
        after |= {path: state for path, state in known if state is not None}
        missing = [path for path in running if path not in after]
        if missing:
            with self.stack.resident(layer):
                for start in range(0, len(missing), self.states_per_step):
                    group = missing[start : start + self.states_per_step]
                    before = [states[self._paths.before(layer, path)] for path in group]
                    results = self._step(layer, before, self._paths.present(layer, group[0]))
                    after.update(zip(group, results, strict=True))
        for path in missing:
            self._known.keep((windows[0], path), after[path])
        return after

    def _step(self, layer: int, states: list[State], present: Sequence[bool] = ()) -> list[State]:
        """Run one layer on several states: batched if so many may share a step, else one by one.

        Args:
            layer: the layer.
            states: several only if every layer is one player.
            present: which players of the layer run; empty: all.
        """
        windows = states[0][0].shape[0]
        self.work.window_runs += len(states) * windows
        if 1 < len(states) == self.states_per_step and windows == self.windows_together:
            placed = [self.stack.placed(layer, state) for state in states]
            return divided(self.stack.step(layer, joined(placed)), len(states))
        return [self._run(layer, state, present) for state in states]

    def _run(self, layer: int, state: State, present: Sequence[bool] = ()) -> State:
        rows, batch = self._step_windows, state[0].shape[0]
        parts = (
            [cut(state, start, start + rows) for start in range(0, batch, rows)] if rows < batch else [state]
        )
        if all(present):
            return joined([self.stack.step(layer, part) for part in parts])
        return joined([self.stack.run(layer, present, part) for part in parts])
