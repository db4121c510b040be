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
        calibration: token ids, shape (samples, length), as many samples as the step wants.
        tokenizer: the model's tokenizer, or None.
        directory: a directory of the step's own inside the run directory, for work files; it survives a
            killed run until the step is done.
        seed: source of all the step's randomness.
    """

    adapter: Adapter
    plan: RemovalPlan
    calibration: Tensor
    tokenizer: Any
    directory: Path
    seed: int


@dataclass(frozen=True, eq=False, slots=True)
class StoredModel:
    """What a step returns whose result is a directory: a model that its library cannot write from memory.

    Attributes:
        model: the checkpoint in ``directory`` as the adapter's library loads it.
        directory: a checkpoint inside the step's own directory; its files are taken as they are.
    """

    model: nn.Module
    directory: Path


class PostProcessor(ABC):
    """One step after the cut; its options are its constructor's keyword arguments.

    Attributes:
        stage: steps of an earlier stage cannot follow steps of a later one.
        takes_quantized: whether it can work on a model whose weights are quantized already.
        gives_quantized: whether the weights are quantized after it.
        samples: calibration windows that it wants; None: as many as coalitions are measured on.
        tolerance: largest accepted difference between logits of its result in memory and of the checkpoint
            written from it; None if only the order of the arithmetic may differ.
    """

    stage: ClassVar[Stage]
    takes_quantized: ClassVar[bool] = False
    gives_quantized: ClassVar[bool] = False
    samples: int | None = None
    tolerance: float | None = None

    def check(self, model: nn.Module) -> None:  # noqa: B027 - most steps have nothing to refuse
        """Refuse, before any evaluation, what `run` could not do on this (still unpruned) model.

        Raises:
            InputError: with the reason and what to do.
        """

    @abstractmethod
    def run(self, model: nn.Module, context: StepContext) -> nn.Module | StoredModel:
        """Do the step; returns the model to go on with.

        A killed run that is started again calls it again, with the same ``context.directory`` and whatever
        was left there; once the step is done the directory is emptied.
        """
