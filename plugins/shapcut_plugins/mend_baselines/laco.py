"""LaCo: merge the removed blocks into the block before them."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, ClassVar

from torch import Tensor, nn

from shapcut.contracts import Adapter, StepContext
from shapcut_plugins.mend_baselines.base import MendingBaseline
from shapcut_plugins.mend_baselines.cuts import Cut


class LaCo(MendingBaseline):
    """LaCo (arXiv 2402.11187): the block before each cut takes over what the removed ones differ by.

    Its parameters become ``w + sum (w_k - w)`` over the removed blocks k. Which blocks are removed is
    the plan's choice, not that of the paper's search. Reads no text.
    """

    name: ClassVar[str] = "laco"

    def objection(self, model: nn.Module, adapter: Adapter) -> str:
        """No two consecutive blocks have the same parameters."""
        blocks = [_parameters(adapter, model, player.index) for player in adapter.players(model)]
        if any(one and _shapes(one) == _shapes(other) for one, other in pairwise(blocks)):
            return ""
        return f"no two consecutive blocks of {type(model).__name__} have parameters of the same shapes"

    def mend(
        self, model: nn.Module, context: StepContext, cuts: Sequence[Cut]
    ) -> Sequence[Mapping[str, Any]]:
        """Merge the removed blocks that have the shapes of the block before them."""
        adapter, original = context.adapter, context.original()
        done = []
        for cut in cuts:
            merged: list[int] = []
            if cut.before >= 0:
                own = _parameters(adapter, model, cut.before)
                first = _parameters(adapter, original, cut.entry - 1)
                for block in range(cut.entry, cut.exit):
                    other = _parameters(adapter, original, block)
                    if _shapes(other) == _shapes(own):
                        merged.append(block)
                        _add_differences(own, first, other)
            done.append({"merged": merged})
        return done


def _parameters(adapter: Adapter, model: nn.Module, block: int) -> dict[str, Tensor]:
    """The floating-point parameters that a block shares with no other, by their path in it."""
    player = adapter.players(model)[block]
    own = {id(parameter) for parameter in adapter.player_parameters(model, player)}
    named = model.get_submodule(player.name).named_parameters()
    return {name: each for name, each in named if id(each) in own and each.is_floating_point()}


def _shapes(parameters: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(each.shape) for name, each in parameters.items()}


def _add_differences(
    own: Mapping[str, Tensor], first: Mapping[str, Tensor], other: Mapping[str, Tensor]
) -> None:
    for name, parameter in own.items():
        parameter.copy_(
            parameter.double() + (other[name].double() - first[name].double()).to(parameter.device)
        )
