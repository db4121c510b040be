"""The contract of a post-pruning step: compensate, heal, quantize, export."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from torch import Tensor, nn

from shapcut.adapter import Adapter
from shapcut.plan import RemovalPlan

Stage = Literal["compensate", "heal", "quantize", "export"]


@dataclass(frozen=True, slots=True)
class StepContext:
    """What a step may use besides the model.

    Attributes:
        adapter: the model's adapter.
        plan: what was removed.
        calibration: token ids, shape (samples, length).
        tokenizer: the model's tokenizer, or None.
        directory: a directory of the step's own inside the run directory, for work files.
        seed: source of all the step's randomness.
    """

    adapter: Adapter
    plan: RemovalPlan
    calibration: Tensor
    tokenizer: Any
    directory: Path
    seed: int


class PostProcessor(ABC):
    """One step after the cut; its options are its constructor's keyword arguments."""

    stage: ClassVar[Stage]
    """Steps of an earlier stage cannot follow steps of a later one."""

    def check(self, model: nn.Module) -> None:  # noqa: B027 - most steps have nothing to refuse
        """Refuse, before any evaluation, what `run` could not do on this (still unpruned) model.

        Raises:
            InputError: with the reason and what to do.
        """

    @abstractmethod
    def run(self, model: nn.Module, context: StepContext) -> nn.Module:
        """Do the step; returns the model to go on with."""
