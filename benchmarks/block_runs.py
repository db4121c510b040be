"""Block runs a coalition at the shape of Llama-3-8B, by the real evaluator on a stack without weights.

python benchmarks/block_runs.py        a minute
"""

import platform
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from shapcut.estimators.sampling import GuidedSampler
from shapcut.game.coalitions import CoalitionMatrix, Player
from shapcut.models.layer_stack import LayerStack, State
from shapcut.support.files import write_json_atomically
from shapcut.valuation.prefix_tree import CoalitionEvaluator, Placement
from shapcut.valuation.state_memory import most_windows_per_step

RESULT = Path(__file__).parent / "results" / "block_runs.json"
BLOCKS, WIDTH, LENGTH, REMOVE, COALITIONS, SEED = 32, 4096, 2048, 8, 250, 0


class WeightlessStack(LayerStack):
    """Blocks that do nothing, on states of one number for each position."""

    def prelude(self, input_ids: Tensor) -> State:
        """See `LayerStack.prelude`."""
        return (torch.zeros(*input_ids.shape, 1),)

    def step(self, index: int, state: State) -> State:  # noqa: ARG002 - all blocks are alike
        """See `LayerStack.step`."""
        state[0][0, 0].sort()  # like a router's choice, which keeps states from being copied into one batch
        return state

    def readout(self, state: State) -> Tensor:
        """See `LayerStack.readout`."""
        return torch.zeros(*state[0].shape[:2], 2)


class RunCounter:
    """Block runs of coalitions that are measured call by call with the same cached states.

    Windows have two positions here; the memory is less in proportion to that of a real state.

    Args:
        n_players: number of blocks.
        shape: windows, length and width of the hidden state, in bfloat16.
        memory: bytes for states.
    """

    def __init__(self, n_players: int, shape: tuple[int, int, int] = (1, 2, 1), memory: int = 2**30) -> None:
        windows, length, width = shape
        ids = torch.zeros(windows, 2, dtype=torch.long)
        state = 2 * torch.float32.itemsize
        step = most_windows_per_step((windows, length))
        placement = Placement(
            memory * state // (length * width * torch.bfloat16.itemsize), sequences_per_step=step
        )
        self._evaluator = CoalitionEvaluator(WeightlessStack(), n_players, ids, "nll", placement)

    def runs(self, coalitions: CoalitionMatrix, rows_per_call: int | None = None) -> float:
        """Block runs of these coalitions, over all windows."""
        before = self._evaluator.work.block_runs
        size = rows_per_call or max(1, len(coalitions))
        for part in np.split(coalitions, range(size, len(coalitions), size)):
            self._evaluator.means(part)
        return self._evaluator.work.block_runs - before


def at_shape(windows: int, gibibytes: int, drawn: CoalitionMatrix) -> dict[str, Any]:
    """Block runs a coalition for windows of Llama-3-8B."""
    counter = RunCounter(BLOCKS, (windows, LENGTH, WIDTH), gibibytes * 2**30)
    return {
        "windows": windows,
        "length": LENGTH,
        "GiB for states": gibibytes,
        "block runs": counter.runs(drawn) / len(drawn),
        "blocks present": float(drawn.sum(axis=1).mean()),
    }


def main() -> None:
    """Count and write the result."""
    rng = np.random.default_rng(SEED)
    sampler = GuidedSampler(rng.gamma(1.0, 0.1, BLOCKS), REMOVE + 1)
    players = [Player(index, f"block {index}", "block", 1) for index in range(BLOCKS)]
    drawn = sampler.sample(players, COALITIONS, rng)
    content = {
        "command": "python benchmarks/block_runs.py",
        "machine": platform.machine(),
        "seed": SEED,
        "coalitions": len(drawn),
        "blocks": BLOCKS,
        "removed": REMOVE,
        "rows": [at_shape(windows, memory, drawn) for windows, memory in product((16, 128), (24, 64))],
    }
    write_json_atomically(RESULT, content)


if __name__ == "__main__":
    main()
