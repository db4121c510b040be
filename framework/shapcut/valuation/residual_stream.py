"""The residual stream between the blocks of a model, batch by batch."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from shapcut.game.coalitions import Player
from shapcut.models.layer_stack import LayerStack
from shapcut.support.errors import InputError
from shapcut.valuation.model_access import ModelAccess

TOKENS_PER_STEP = 4096


@torch.no_grad()
def boundaries(access: ModelAccess) -> Iterator[tuple[int, Tensor]]:
    """The residual stream before and after every player; charges one pass.

    Yields:
        For every batch in turn, the number of players passed, 0 to n_players, and the residual stream there,
        shape (windows, length, width). Inside a layer of several players, that of the layer without those
        not passed yet.

    Raises:
        InputError: if the players are parts of blocks and the model has no layer stack.
    """
    players = access.adapter.players(access.model, access.granularity)
    stack = access.adapter.stack(access.model, access.granularity)
    if stack is None and access.granularity != "block":
        raise InputError("this model has no layer stack to observe parts of blocks; use --granularity block")
    access.charge(len(players))
    for ids in torch.split(access.input_ids, windows_per_step(access, stack)):
        yield from (
            _watched(access, players, ids)
            if stack is None
            else _walked(stack, stack.stages(len(players)), ids)
        )


def windows_per_step(access: ModelAccess, stack: LayerStack | None, tokens: int = TOKENS_PER_STEP) -> int:
    """The number of windows per forward pass."""
    if stack is not None and stack.batch_size:
        return stack.batch_size
    return max(1, tokens // access.input_ids.shape[1])


def _walked(stack: LayerStack, stages: Sequence[range], ids: Tensor) -> Iterator[tuple[int, Tensor]]:
    state = stack.prelude(ids)
    yield 0, stack.stream(state)
    for layer, stage in enumerate(stages):
        with stack.resident(layer):
            for player in stage[1:]:
                yield player, stack.stream(stack.run(layer, [each < player for each in stage], state))
            state = stack.step(layer, state)
        yield stage.stop, stack.stream(state)


def _watched(access: ModelAccess, players: Sequence[Player], ids: Tensor) -> Iterator[tuple[int, Tensor]]:
    """One forward pass with hooks on the input of every block and the output of the last."""
    seen: dict[int, Tensor] = {}
    with ExitStack() as hooks:
        for player in players:
            block = access.model.get_submodule(player.name)
            entered = block.register_forward_pre_hook(
                partial(_note_entry, seen, player.index), with_kwargs=True
            )
            hooks.callback(entered.remove)
        left = block.register_forward_hook(partial(_note_exit, seen, len(players)))
        hooks.callback(left.remove)
        access.adapter.logits(access.model, ids)
    yield from sorted(seen.items())


def _note_entry(
    seen: dict[int, Tensor], index: int, _block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    seen[index] = args[0] if args else kwargs["hidden_states"]


def _note_exit(seen: dict[int, Tensor], index: int, _block: nn.Module, _args: Any, output: Any) -> None:
    seen[index] = output if isinstance(output, Tensor) else output[0]
