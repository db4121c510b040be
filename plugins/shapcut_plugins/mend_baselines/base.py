"""What the published ways to mend a cut have in common."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from shapcut.contracts import (
    Adapter,
    InputError,
    OutputProjection,
    PostProcessor,
    Stage,
    StepContext,
    write_json_atomically,
)
from shapcut_plugins.mend_baselines.cuts import Cut, cuts_of


class MendingBaseline(PostProcessor):
    """A step that changes weights beside each cut, in closed form or nearly so.

    Attributes:
        name: as registered; the report is ``NAME.json``.
    """

    stage: ClassVar[Stage] = "compensate"
    whole_blocks: ClassVar[bool] = True
    name: ClassVar[str]

    def check(self, model: nn.Module, adapter: Adapter) -> None:
        """Refuse models that the method does not work on.

        Raises:
            InputError: with the reason.
        """
        if any(parameter.is_meta for parameter in model.parameters()):
            raise InputError(f"{self.name}: needs all weights in memory; leave out this step or --offload")
        if objection := self.objection(model, adapter):
            raise InputError(f"{self.name}: {objection}; leave out this step")

    def run(self, model: nn.Module, context: StepContext) -> nn.Module:
        """Change weights in place; write what was done at each cut to ``NAME.json``.

        Raises:
            InputError: if players are not blocks, or the model is one that the method does not work on.
        """
        if context.plan.granularity != "block":
            raise InputError(f"{self.name}: needs blocks as players, not {context.plan.granularity}")
        cuts = cuts_of(context.plan)
        with torch.no_grad(), context.reporter.working(self.name):
            done = self.mend(model, context, cuts)
        content = [
            {"removed": list(range(cut.entry, cut.exit)), **facts}
            for cut, facts in zip(cuts, done, strict=True)
        ]
        write_json_atomically(context.directory / f"{self.name}.json", {"cuts": content})
        return model

    @abstractmethod
    def objection(self, model: nn.Module, adapter: Adapter) -> str:
        """Why the method does not work on a whole model; empty if it does."""

    @abstractmethod
    def mend(
        self, model: nn.Module, context: StepContext, cuts: Sequence[Cut]
    ) -> Sequence[Mapping[str, Any]]:
        """Mend each cut of the pruned model; returns what was done at each, as plain data."""


def last_linear(adapter: Adapter, model: nn.Module, block: int) -> OutputProjection | None:
    """The last projection of a block, if it is a linear map: that of its MLP, if it has one."""
    found = adapter.output_projections(model, adapter.players(model)[block])
    return found[-1] if found and found[-1].linear else None


def has_linear(adapter: Adapter, model: nn.Module) -> bool:
    """Whether the last projection of any block is a linear map."""
    return any(last_linear(adapter, model, player.index) for player in adapter.players(model))


@dataclass(frozen=True, slots=True)
class Sample:
    """Randomly chosen windows of the calibration text.

    Attributes:
        samples: maximum number of windows.
        sequence_length: tokens per window; 0: the recipe's.
    """

    samples: int
    sequence_length: int

    def __post_init__(self) -> None:
        if self.samples < 1:
            raise ValueError(f"samples={self.samples}: at least 1 is needed")

    def windows(self, context: StepContext) -> Tensor:
        """Token ids, shape (windows, tokens)."""
        found = context.windows(self.sequence_length or context.calibration.shape[1])
        generator = torch.Generator().manual_seed(context.seed)
        return found[torch.randperm(len(found), generator=generator)[: self.samples]]
