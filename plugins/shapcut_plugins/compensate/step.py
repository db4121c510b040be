"""The step that mends a cut without training: what the cut blocks did is fitted into blocks that stay."""

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
    """Fold into the blocks before a cut a linear map that stands for what was cut.

    Block by block, the weights of output projections are fitted by ridge regression so that the residual
    stream after the block is what the original model has after the cut. Nothing is added to the model.

    Args:
        into: which projections of a block are fitted: the last one, the one before it, or both in this order.
            A block that has only one uses that.
        places: ``cut``: the blocks before each cut; ``all``: every block from there on, too.
        samples: windows to fit on, of the calibration text; fewer if the text has no more.
        sequence_length: tokens a window; 0 for the recipe's.
        weight_power: tokens count by the norm of their stream to minus this power.
    """

    stage: ClassVar[Stage] = "compensate"

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
        """Refuse models into which nothing can be folded.

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
        """Fit in place; what was fitted is written to ``compensation.json``.

        Raises:
            InputError: if players are not whole blocks, or the text has less than two windows.
        """
        adapter, plan = context.adapter, context.plan
        if plan.granularity != "block":
            raise InputError(f"compensate: works on whole blocks, not on players of kind {plan.granularity}")
        windows = self._windows(context)
        players = adapter.players(model)
        depth = len(plan.kept) + len(plan.removed)

        def choose(index: int, cut: bool) -> Sequence[OutputProjection]:
            return self._chosen(adapter, model, players[index]) if cut or self._places == "all" else ()

        with torch.no_grad(), context.reporter.counting("compensating, blocks", depth) as count:
            original = context.original()
            walk = Walk(adapter, original, model, windows, self._weight_power)
            mended = walk.mend(plan.kept, depth, choose, count)
        content = {
            "tokens": windows.numel(),
            "projections": [{**asdict(each), "block": plan.kept[each.block]} for each in mended],
        }
        write_json_atomically(context.directory / "compensation.json", content)
        return model

    def _chosen(self, adapter: Adapter, model: nn.Module, player: Player) -> tuple[OutputProjection, ...]:
        """The projections of a block that are fitted, in the order in which they run."""
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
