"""The step that compensates a cut without training, by fitting the removed blocks' effect into kept ones."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from shapcut.contracts import (
    Adapter,
    InputError,
    OutputProjection,
    Player,
    PostProcessor,
    Stage,
    StepContext,
    write_json_atomically,
)
from shapcut_plugins.compensate.walk import Walk

Into = Literal["mlp", "attention", "both"]


class Compensate(PostProcessor):
    """Fold a linear approximation of the removed blocks into the blocks before each cut.

    Block by block, ridge regression fits the weights of output projections so that the residual stream after
    the block matches the original's after the cut. Nothing is added to the model. A block that lost experts
    is fitted as one before a cut; what its experts read changes with its mixer, so that a share of the change
    may do better than all of it.

    Args:
        into: which projections of a block to fit: the MLP's, the attention's (or other mixer's), or both. A
            block with only one uses that.
        places: ``cut``: the blocks before each cut; ``all``: also every later block.
        samples: maximum number of windows of calibration text to fit on.
        sequence_length: tokens per window; 0: the recipe's.
        weight_power: weight of a token: the norm of its stream to minus this power.
    """

    stage: ClassVar[Stage] = "compensate"
    whole_blocks: ClassVar[bool] = True
    takes_experts: ClassVar[bool] = True

    def __init__(
        self,
        into: Into = "mlp",
        places: Literal["cut", "all"] = "cut",
        samples: int = 128,
        sequence_length: int = 0,
        weight_power: float = 2.0,
    ) -> None:
        if samples < 2:  # noqa: PLR2004 - one to fit, one to choose the ridge
            raise ValueError(f"samples={samples}: at least 2 windows are needed")
        self._into = into
        self._places = places
        self._samples = samples
        self._sequence_length = sequence_length
        self._weight_power = weight_power

    def check(self, model: nn.Module, adapter: Adapter) -> None:
        """Refuse models without a foldable projection.

        Raises:
            InputError: with the reason.
        """
        if any(parameter.is_meta for parameter in model.parameters()):
            raise InputError("compensate: needs all weights in memory; leave out this step or --offload")
        if adapter.stack(model) is None:
            raise InputError(
                f"compensate: {type(model).__name__} cannot be run block by block; leave out this step"
            )
        if not any(self._chosen(adapter, model, player) for player in adapter.players(model)):
            raise InputError(
                f"compensate: no block of {type(model).__name__} ends in a linear map that is added to the "
                "residual stream; leave out this step"
            )

    def run(self, model: nn.Module, context: StepContext) -> nn.Module:
        """Fit in place; write the fitted projections to ``compensation.json``.

        Raises:
            InputError: if players are neither blocks nor experts, or the text has fewer than two windows.
        """
        adapter, plan = context.adapter, context.plan
        if plan.granularity not in {"block", "expert"}:
            raise InputError(f"compensate: needs blocks or experts as players, not {plan.granularity}")
        windows = self._windows(context)
        players = adapter.players(model)
        whole = plan.granularity == "block"
        depth = len(plan.kept) + len(plan.removed) if whole else len(players)
        kept = plan.kept if whole else range(depth)

        def choose(index: int, cut: bool) -> Sequence[OutputProjection]:
            return self._chosen(adapter, model, players[index]) if cut or self._places == "all" else ()

        with torch.no_grad(), context.reporter.counting("compensating, blocks", depth) as count:
            original = context.original()
            walk = Walk(adapter, original, model, windows, self._weight_power)
            changed = () if whole else _changed(adapter.players(original), players)
            mended = walk.mend(kept, depth, choose, count, changed)
        content = {
            "tokens": windows.numel(),
            "projections": [{**asdict(each), "block": kept[each.block]} for each in mended],
        }
        write_json_atomically(context.directory / "compensation.json", content)
        return model

    def _chosen(self, adapter: Adapter, model: nn.Module, player: Player) -> tuple[OutputProjection, ...]:
        """The projections of a block to fit, in execution order."""
        linear = tuple(each for each in adapter.output_projections(model, player) if each.linear)
        if self._into == "both" or not linear:
            return linear
        role = "mlp" if self._into == "mlp" else "mixer"
        return tuple(each for each in linear if each.role == role)[-1:] or linear[-1:]

    def _windows(self, context: StepContext) -> Tensor:
        """Evenly spread windows of the calibration text."""
        found = context.windows(self._sequence_length or context.calibration.shape[1])
        if len(found) < 2:  # noqa: PLR2004 - as above
            raise InputError(f"compensate: the calibration text has {len(found)} windows, 2 are needed")
        count = min(self._samples, len(found))
        generator = torch.Generator().manual_seed(context.seed)
        return found[torch.randperm(len(found), generator=generator)[:count]]


def _changed(before: Sequence[Player], after: Sequence[Player]) -> tuple[int, ...]:
    """The blocks that lost parameters."""
    pairs = zip(before, after, strict=True)
    return tuple(one.index for one, other in pairs if other.parameters < one.parameters)
