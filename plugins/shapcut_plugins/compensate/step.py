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
from shapcut_plugins.compensate.walk import Walk

_SCALES = (1.0, 0.5)
"""Shares of all changes that are put to the trial."""

Into = Literal["mlp", "attention", "both"]


class Compensate(PostProcessor):
    """Fold a linear approximation of the removed blocks into the blocks that stay.

    Before each cut, ridge regression fits the weights of the block's output projections so that the residual
    stream after it matches the original's after the cut. Nothing is added to the model. The ridge is chosen
    by what a fit of some sources of the text does for another. A block that lost experts is fitted as one
    before a cut; what its experts read changes with its mixer, so that a share of the change may do better
    than all of it.

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
    whole_blocks: ClassVar[bool] = True
    takes_experts: ClassVar[bool] = True

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
        """Fit in place; write the fitted projections and their trial to ``compensation.json``.

        Raises:
            InputError: if players are neither blocks nor experts, or the text has fewer than two windows.
        """
        adapter, plan = context.adapter, context.plan
        if plan.granularity not in {"block", "expert"}:
            raise InputError(f"compensate: needs blocks or experts as players, not {plan.granularity}")
        windows = self._windows(context)
        fitted, held = hold_back(windows)
        with torch.no_grad():
            before = losses(adapter, model, held)
            start = {
                name: value.to("cpu", copy=True) for name, value in self._weights(adapter, model).items()
            }
            mended = self._fitted(model, context, list(fitted.values()), list(held.values()))
            scale, tried = self._judged(model, context, start, held, before)
        context.note(_verdict(scale, tried[-1]))
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
        players = adapter.players(model)
        whole = plan.granularity == "block"
        depth = len(plan.kept) + len(plan.removed) if whole else len(players)
        kept = plan.kept if whole else range(depth)

        def choose(index: int, cut: bool) -> Sequence[OutputProjection]:
            return self._chosen(adapter, model, players[index]) if cut or self._places == "all" else ()

        with context.reporter.counting("compensating, blocks", depth) as count:
            original = context.original()
            walk = Walk(adapter, original, model, fitted=fitted, held=held, weight_power=self._weight_power)
            changed = () if whole else _changed(adapter.players(original), players)
            mended = walk.mend(kept, depth, choose, count, changed)
        return [{**asdict(each), "block": kept[each.block]} for each in mended]

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
        modules = {
            each.module for player in adapter.players(model) for each in self._chosen(adapter, model, player)
        }
        return {
            f"{module}.{name}": parameter.data
            for module in sorted(modules)
            for name, parameter in model.get_submodule(module).named_parameters(recurse=False)
        }

    def _chosen(self, adapter: Adapter, model: nn.Module, player: Player) -> tuple[OutputProjection, ...]:
        """The projections of a block to fit, in execution order."""
        linear = tuple(each for each in adapter.output_projections(model, player) if each.linear)
        if self._into == "both" or not linear:
            return linear
        role = "mlp" if self._into == "mlp" else "mixer"
        return tuple(each for each in linear if each.role == role)[-1:] or linear[-1:]

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


def _verdict(scale: float, last: Trial) -> str:
    """What became of the changes, in one line."""
    if not scale:
        return f"not compensated: {last.summary()} in perplexity on text held back"
    share = "" if scale == 1.0 else f" by {scale:g} of each change"
    return f"compensated{share}; perplexity on text held back {last.summary()}"


def _changed(before: Sequence[Player], after: Sequence[Player]) -> tuple[int, ...]:
    """The blocks that lost parameters."""
    pairs = zip(before, after, strict=True)
    return tuple(one.index for one, other in pairs if other.parameters < one.parameters)
