"""The contract of a post-pruning step: compensate, heal, quantize, export."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

from torch import Tensor, nn

from shapcut.game.plan import RemovalPlan
from shapcut.models.adapter import Adapter
from shapcut.support.errors import InputError
from shapcut.support.progress import Reporter, Silent

Stage = Literal["compensate", "heal", "quantize", "export"]


def _no_original() -> nn.Module:
    raise InputError("this step needs the original model, and whoever runs it gives none")


def _no_windows(length: int) -> Tensor:
    raise InputError(f"this step needs windows of {length} tokens, and whoever runs it gives no text")


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
        original: gives the whole model, loaded anew in the form in which it was pruned; the step lets go of
            it when it is done. `Adapter.remove` works in place, so nobody else has it.
        windows: gives all windows of that many tokens of the calibration text, shape (windows, length), in
            its order; none of them is held-out text.
        reporter: where the step says how far it is.
    """

    adapter: Adapter
    plan: RemovalPlan
    calibration: Tensor
    tokenizer: Any
    directory: Path
    seed: int
    original: Callable[[], nn.Module] = _no_original
    windows: Callable[[int], Tensor] = _no_windows
    reporter: Reporter = field(default_factory=Silent)


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

    def check(self, model: nn.Module, adapter: Adapter) -> None:  # noqa: B027 - most steps refuse nothing
        """Refuse what `run` could not do; called on the unpruned model, before any evaluation.

        Args:
            model: the canonicalised original.
            adapter: its adapter.

        Raises:
            InputError: with the reason and what to do.
        """

    @abstractmethod
    def run(self, model: nn.Module, context: StepContext) -> nn.Module | StoredModel:
        """Do the step; returns the model to go on with.

        A killed run that is started again calls it again, with the same ``context.directory`` and whatever
        was left there; once the step is done the directory is emptied.
        """
