"""Paths: what a coalition has run so far, as one integer."""

from collections.abc import Sequence

import numpy as np

from shapcut.game.coalitions import CoalitionMatrix


class Paths:
    """Encodes which players ran in the layers so far.

    A layer that is one player has one bit: whether it ran. Every other layer always runs; it has a bit for
    each of its players and a bit above them that is always set. The highest bit of a path thus belongs to the
    last layer that ran, and two coalitions have the same state after a layer if their paths are equal.

    Args:
        stages: the players of each layer, see `LayerStack.stages`.
    """

    def __init__(self, stages: Sequence[range]) -> None:
        self.stages = stages
        self._begin = [0]
        for stage in stages:
            self._begin.append(self._begin[-1] + len(stage) + (len(stage) != 1))

    def __len__(self) -> int:
        """The number of layers."""
        return len(self.stages)

    def trunk(self, layers: int) -> int:
        """The path on which all players of the first layers run."""
        return (1 << self._begin[layers]) - 1

    def extended(self, layer: int, paths: list[int], coalitions: CoalitionMatrix) -> list[int]:
        """The path of each coalition after a layer, from those before it."""
        stage, begin = self.stages[layer], self._begin[layer]
        if len(stage) == 1:
            runs = coalitions[:, stage.start].tolist()
            return [path | run << begin for path, run in zip(paths, runs, strict=True)]
        packed = np.packbits(coalitions[:, stage.start : stage.stop], axis=1, bitorder="little")
        ran = 1 << len(stage)
        bits = (int.from_bytes(row.tobytes(), "little") | ran for row in packed)
        return [path | some << begin for path, some in zip(paths, bits, strict=True)]

    def runs(self, layer: int, path: int) -> bool:
        """Whether the layer runs on a path that ends after it."""
        return bool(path >> self._begin[layer + 1] - 1)

    def before(self, layer: int, path: int) -> int:
        """The part of a path that lies before a layer."""
        return path & ((1 << self._begin[layer]) - 1)

    def present(self, layer: int, path: int) -> list[bool]:
        """Which of the layer's players run on a path that ends after it."""
        bits = path >> self._begin[layer]
        return [bool(bits >> place & 1) for place in range(len(self.stages[layer]))]
