"""What another process needs to build its own copy of a model's game."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from shapcut.models.adapter import Granularity
from shapcut.models.source import Offload


@dataclass(frozen=True, slots=True)
class GameOrigin:
    """What a game was made of, where that has names.

    Attributes:
        source: the model, as for `shapcut.models.loading.load`.
        utility: ``NAME[:key=value,...]``.
        trust_remote_code: whether Python code that comes with the checkpoint may be run.
        offload: where weights are, as for `shapcut.models.loading.load`.
    """

    source: str
    utility: str
    trust_remote_code: bool = False
    offload: Offload = "off"

    def located(self) -> "GameOrigin":
        """The same for processes in other working directories: a local path is absolute."""
        path = Path(self.source)
        return replace(self, source=str(path.resolve())) if path.exists() else self


@dataclass(frozen=True, eq=False, slots=True)
class GameSpec:
    """What another process needs to build its own copy of a game; plain data that can be sent.

    Attributes:
        origin: model and utility; a local path is absolute.
        device: type of the device to measure on: ``cpu``, ``cuda``.
        dtype: number format of the evaluation, never ``auto``.
        granularity: what a player is.
        fuse: whether blocks run as fused kernels.
        memory_budget: bytes for the states of coalitions, or None for a share of the builder's memory.
        sequences_per_step: most sequences that go through a layer at once, or None.
        weight_bytes: size of the model's weights.
        input_ids: calibration tokens, shape (samples, length).
        fingerprint: what the values of the game belong to.
    """

    origin: GameOrigin
    device: str
    dtype: str
    granularity: Granularity
    fuse: bool
    memory_budget: int | None
    sequences_per_step: int | None
    weight_bytes: int
    input_ids: NDArray[np.int64]
    fingerprint: Mapping[str, str]
