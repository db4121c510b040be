"""The step that compensates a cut without training, by fitting the removed blocks' effect into kept ones."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from shapcut.contracts import (
    Adapter,
    InputError,
    Losses,
    OutputProjection,
    Player,
    PostProcessor,
    Stage,
    StepContext,
    Trial,
    hold_back,
    losses,
    tried_against,
    write_json_atomically,
)
from shapcut_plugins.compensate.cut_blocks import CutBlocks
from shapcut_plugins.compensate.walk import Walk, layer_stack

_SCALES = (1.0, 0.5)
"""Shares of all changes that are put to the trial."""

_BLOCKS_NAMED = 12

Into = Literal["mlp", "attention", "both"]


class Compensate(PostProcessor):
    """Fold a linear approximation of the removed blocks into the blocks that stay.

    Before each cut, ridge regression fits the weights of the block's output projections so that the residual
    stream after it matches the original's after the cut. Nothing is added to the model. The ridge is chosen
    by what a fit of some sources of the text does for another. A block that lost its attention, its MLP or
    experts is fitted as one before a cut; what an MLP or experts read changes with the mixer, so that a share
    of the change may do better than all of it.

    The changed weights are kept only if they lower the loss on windows held back from the fit, and raise it
    on no source by more than the paired interval; otherwise a half of each change is tried.

    Args:
        into: which projections of a block to fit: the MLP's, the attention's (or other mixer's), or both. A
            block with only one uses that.
        places: ``cut``: the blocks before each cut; ``all``: also every later block.
        samples: maximum number of windows of calibration text to fit on.
        sequence_length: tokens per window; 0: the recipe's.
        weight_power: weight of a token: the norm of its stream to minus this power.
        trial: whether changes must pass the trial; without it all are kept.
    """

    stage: ClassVar[Stage] = "compensate"

    def __init__(
        self,
        into: Into = "both",
        places: Literal["cut", "all"] = "cut",
        *,
        samples: int = 256,
        sequence_length: int = 0,
        weight_power: float = 2.0,
        trial: bool = True,
    ) -> None:
        if samples < 2:  # noqa: PLR2004 - one to fit, one to judge by
            raise ValueError(f"samples={samples}: at least 2 windows are needed")
        self._into = into
        self._places = places
        self._samples = samples
        self._sequence_length = sequence_length
        self._weight_power = weight_power
        self._tries = trial

    def check(self, model: nn.Module, adapter: Adapter) -> None:
        """Refuse models without a foldable projection.

        Raises:
            InputError: with the reason.
        """
        if any(parameter.is_meta for parameter in model.parameters()):
            raise InputError("compensate: needs all weights in memory; leave out this step or --offload")
        layer_stack(adapter, model)
        if not any(self._chosen(adapter, model, player) for player in adapter.players(model)):
            raise InputError(
                f"compensate: no block of {type(model).__name__} ends in a linear map that is added to the "
                "residual stream; leave out this step"
            )

    def run(self, model: nn.Module, context: StepContext) -> nn.Module:
        """Fit in place; write the fitted projections and their trial to ``compensation.json``.

        Raises:
            InputError: if the text has fewer than two windows.
        """
        adapter = context.adapter
        windows = self._windows(context)
        fitted, held = hold_back(windows)
        with torch.no_grad():
            before = losses(adapter, model, held)
            start = {
                name: value.to("cpu", copy=True) for name, value in self._weights(adapter, model).items()
            }
            mended = self._fitted(model, context, list(fitted.values()), list(held.values()))
            scale, tried = self._judged(model, context, start, held, before)
        context.note(_verdict(scale, tried[-1], mended))
        content = {
            "tokens": sum(found.numel() for found in fitted.values()),
            "texts": {text: len(found) for text, found in windows.items()},
            "scale": scale,
            "held_back": [each.to_json() for each in tried],
            "projections": mended,
        }
        write_json_atomically(context.directory / "compensation.json", content)
        return model

    def _fitted(
        self, model: nn.Module, context: StepContext, fitted: Sequence[Tensor], held: Sequence[Tensor]
    ) -> list[dict[str, Any]]:
        """Fit all places; the projections as plain data, blocks counted as in the original."""
        adapter, plan = context.adapter, context.plan
        original, players = context.original(), adapter.players(model)
        n_players = len(adapter.players(original, plan.granularity))
        stages = layer_stack(adapter, original, plan.granularity).stages(n_players)
        blocks = CutBlocks.of(stages, plan.removed, len(players))

        def choose(index: int, cut: bool) -> Sequence[OutputProjection]:
            return self._chosen(adapter, model, players[index]) if cut or self._places == "all" else ()

        with context.reporter.counting("compensating, blocks", blocks.depth) as count:
            walk = Walk(adapter, original, model, fitted=fitted, held=held, weight_power=self._weight_power)
            mended = walk.mend(blocks, choose, count)
        return [{**asdict(each), "block": blocks.starts[each.block]} for each in mended]

    def _judged(
        self,
        model: nn.Module,
        context: StepContext,
        start: Mapping[str, Tensor],
        held: Mapping[str, Tensor],
        before: Losses,
    ) -> tuple[float, list[Trial]]:
        """Keep as much of the changes as passes the trial: all, a half, or nothing.

        Returns:
            The share that is kept, and the trials.
        """
        ends = self._weights(context.adapter, model)
        changed = {name: value.clone() for name, value in ends.items()}
        tried: list[Trial] = []
        for scale in _SCALES:
            for name, value in ends.items():
                if scale < 1.0:
                    value.copy_(
                        torch.lerp(start[name].to(value.device).float(), changed[name].float(), scale)
                    )
            tried.append(tried_against(before, losses(context.adapter, model, held)))
            if tried[-1].improves or not self._tries:
                return scale, tried
        for name, value in ends.items():
            value.copy_(start[name])
        return 0.0, tried

    def _weights(self, adapter: Adapter, model: nn.Module) -> dict[str, Tensor]:
        """Weights and biases of all projections that may be fitted, by name."""
        names = set()
        for player in adapter.players(model):
            for each in self._chosen(adapter, model, player):
                place = each.normed or each.module
                own = (name for name, _ in model.get_submodule(place).named_parameters(recurse=False))
                names |= {f"{place}.{name}" for name in own} if each.linear or each.normed else {each.bias}
        return {name: model.get_parameter(name).data for name in sorted(names)}

    def _chosen(self, adapter: Adapter, model: nn.Module, player: Player) -> tuple[OutputProjection, ...]:
        """The projections of a block to fit, in execution order."""
        found = adapter.output_projections(model, player)
        fitted = tuple(each for each in found if each.linear or each.normed or each.bias)
        if self._into == "both" or not fitted:
            return fitted
        role = "mlp" if self._into == "mlp" else "mixer"
        return tuple(each for each in fitted if each.role == role)[-1:] or fitted[-1:]

    def _windows(self, context: StepContext) -> dict[str, Tensor]:
        """Windows of each source of the calibration text, chosen at random, in proportion to what it has."""
        found = context.windows_by_text(self._sequence_length or context.calibration.shape[1])
        available = sum(len(windows) for windows in found.values())
        if available < 2:  # noqa: PLR2004 - as above
            raise InputError(f"compensate: the calibration text has {available} windows, 2 are needed")
        share = min(1.0, self._samples / available)
        generator = torch.Generator().manual_seed(context.seed)
        return {
            text: windows[
                torch.randperm(len(windows), generator=generator)[: max(1, round(share * len(windows)))]
            ]
            for text, windows in found.items()
        }


def _verdict(scale: float, last: Trial, mended: Sequence[Mapping[str, Any]]) -> str:
    """What became of the changes, and which weights have changed, in one line."""
    if not scale:
        return f"not compensated: {last.summary()} in perplexity on text held back"
    share = "" if scale == 1.0 else f" by {scale:g} of each change"
    return f"compensated{share}; perplexity on text held back {last.summary()}; {_changed(mended)}"


def _changed(mended: Sequence[Mapping[str, Any]]) -> str:
    """Which weights have changed: names of projections, and their blocks as the original counts them."""
    changed = [each for each in mended if each["ridge"] is not None]
    if not changed:
        return "changed nothing"
    names = sorted({each["module"].rpartition(".")[2] for each in changed})
    blocks = sorted({each["block"] for each in changed})
    more = f" and {len(blocks) - _BLOCKS_NAMED} more" if len(blocks) > _BLOCKS_NAMED else ""
    where = f"block{'s' * (len(blocks) > 1)} {', '.join(map(str, blocks[:_BLOCKS_NAMED]))}{more}"
    return f"changed {' and '.join(names)} of {where}"
