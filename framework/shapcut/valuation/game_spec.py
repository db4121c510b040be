"""How another process builds its own copy of a model's game."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from shapcut.models.adapter import Granularity
from shapcut.models.source import Offload
from shapcut.support.errors import InputError

if TYPE_CHECKING:
    from shapcut.valuation.model_game import ModelGame


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
class GameRecipe:
    """How another process builds its own copy of a game; plain data that can be sent.

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

    def build(self, relative: "ModelGame | None" = None, *, share: int = 1) -> "ModelGame":
        """Load the model and make the game.

        Args:
            relative: a game of the same model and utility, if there is one: its model is used.
            share: how many builders share the memory of one machine.

        Raises:
            InputError: if the model cannot be loaded, or the game differs from the one that was asked for.
        """
        ids = torch.from_numpy(self.input_ids.copy())
        if relative is None:
            game = self._load(ids, share)
        else:
            game = relative.on(ids, dtype=getattr(torch, self.dtype), fuse=self.fuse)
        found = game.fingerprint()
        for key in sorted({*found, *self.fingerprint}):
            here, wanted = found.get(key), self.fingerprint.get(key)
            if here != wanted:
                raise InputError(
                    f"a worker's copy of {self.origin.source} differs in {key}: {here}, not {wanted}; "
                    "all workers need the same files and packages"
                )
        return game

    def _load(self, ids: torch.Tensor, share: int) -> "ModelGame":
        from shapcut import builtin  # noqa: PLC0415 - these import this module
        from shapcut.host.host import build_host, checkpoint_formats, select_adapter  # noqa: PLC0415
        from shapcut.models.loading import load  # noqa: PLC0415
        from shapcut.valuation.model_game import ModelGame  # noqa: PLC0415
        from shapcut.valuation.precision import default_memory_budget  # noqa: PLC0415

        host = build_host(core=[builtin], skip_broken=True)
        origin = self.origin
        loaded = load(
            origin.source,
            device=self.device,
            trust_remote_code=origin.trust_remote_code,
            offload=origin.offload,
            formats=checkpoint_formats(host),
        )
        adapter = select_adapter(host, loaded.model)
        return ModelGame(
            adapter.canonicalise(loaded.model),
            adapter,
            ids,
            utility=host.utilities.create(origin.utility),
            granularity=self.granularity,
            dtype=self.dtype,
            memory_budget=(self.memory_budget or default_memory_budget(torch.device(self.device))) // share,
            fuse=self.fuse,
            sequences_per_step=self.sequences_per_step,
            origin=origin,
        )
