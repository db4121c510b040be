"""A worker's copy of a game, built from its spec."""

import torch

from shapcut.host.host import build_host
from shapcut.host.open_model import find_model, open_model
from shapcut.models.loading import weight_devices
from shapcut.support.errors import InputError
from shapcut.valuation.game_spec import GameSpec
from shapcut.valuation.model_game import ModelGame
from shapcut.valuation.precision import default_memory_budget
from shapcut.valuation.utilities import bound_utility


def build_game(spec: GameSpec, relative: ModelGame | None = None, *, share: int = 1) -> ModelGame:
    """Load the model and build the game.

    Args:
        spec: the game's spec.
        relative: a game of the same model and utility, whose model is reused.
        share: number of builders that share the memory of one machine.

    Raises:
        InputError: if the model cannot be loaded, or the game has another fingerprint than the spec.
    """
    ids = torch.from_numpy(spec.input_ids.copy())
    if relative is None:
        game = _load_game(spec, ids, share)
    else:
        game = relative.on(ids, dtype=getattr(torch, spec.dtype), fuse=spec.fuse, sampled=spec.sampled)
    found = game.fingerprint()
    for key in sorted({*found, *spec.fingerprint}):
        here, wanted = found.get(key), spec.fingerprint.get(key)
        if here != wanted:
            raise InputError(
                f"a worker's copy of {spec.origin.source} differs in {key}: {here}, not {wanted}; "
                "all workers need the same files and packages"
            )
    return game


def _load_game(spec: GameSpec, ids: torch.Tensor, share: int) -> ModelGame:
    host = build_host(skip_broken=True)
    origin = spec.origin
    source = find_model(
        host,
        origin.source,
        device=spec.device,
        trust_remote_code=origin.trust_remote_code,
        offload=origin.offload,
        revision=origin.revision,
        text_only=origin.text_only,
    )
    opened = open_model(host, source)
    return ModelGame(
        opened.model,
        opened.adapter,
        ids,
        utility=bound_utility(host.utilities.create(origin.utility), opened.adapter, opened.tokenizer),
        granularity=spec.granularity,
        dtype=spec.dtype,
        memory_budget=(spec.memory_budget or default_memory_budget(*weight_devices(opened.model))) // share,
        fuse=spec.fuse,
        sequences_per_step=spec.sequences_per_step,
        sampled=spec.sampled,
        origin=origin,
    )
