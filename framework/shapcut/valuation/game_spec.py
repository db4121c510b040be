"""The plain data from which another process builds its own copy of a model's game."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from shapcut.game.granularity import Granularity
from shapcut.models.placement import Offload


@dataclass(frozen=True, slots=True)
class GameOrigin:
    """The named sources of a game.

    Attributes:
        source: the model, as for `shapcut.models.loading.load`.
        utility: ``NAME[:key=value,...]``.
        trust_remote_code: whether to run Python code that comes with the checkpoint.
        offload: placement of the weights, as for `shapcut.models.loading.load`.
        revision: branch, tag or commit of a hub id.
        text_only: whether only the language model inside a multimodal model is loaded.
    """

    source: str
    utility: str
    trust_remote_code: bool = False
    offload: Offload = "off"
    revision: str | None = None
    text_only: bool = False

    def located(self) -> "GameOrigin":
        """The same origin with an absolute local path, for processes in other working directories."""
        path = Path(self.source)
        return replace(self, source=str(path.resolve())) if path.exists() else self


@dataclass(frozen=True, eq=False, slots=True)
class GameSpec:
    """The plain data from which another process builds its own copy of a game.

    Attributes:
        origin: model and utility; a local path is absolute.
        device: type of the device: ``cpu`` or ``cuda``.
        dtype: evaluation dtype, never ``auto``.
        granularity: what a player is.
        fuse: whether to run blocks as fused kernels.
        memory_budget: bytes for the states of coalitions, or None for a share of the builder's memory.
        sequences_per_step: maximum sequences per layer call, or None.
        sampled: whether to read out a part of a large vocabulary.
        weight_bytes: size of the model's weights.
        input_ids: calibration tokens, shape (samples, length).
        fingerprint: everything that the values depend on.
    """

    origin: GameOrigin
    device: str
    dtype: str
    granularity: Granularity
    fuse: bool
    memory_budget: int | None
    sequences_per_step: int | None
    sampled: bool
    weight_bytes: int
    input_ids: NDArray[np.int64]
    fingerprint: Mapping[str, str]
