"""The contract of a post-pruning step: compensate, heal, quantize, export."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

from torch import Tensor, nn

from shapcut.game.plan import RemovalPlan
from shapcut.measurement.learning_curve import LearningCurve
from shapcut.models.adapter import Adapter
from shapcut.support.errors import InputError
from shapcut.support.files import write_json_atomically, write_text_atomically
from shapcut.support.progress import Reporter, Silent

NOTE = "note.json"
"""The file that `StepContext.note` writes, beside a step's reports."""

LEARNING_CURVE = "learning_curve.json"
"""The file that `StepContext.keep_curve` writes, likewise."""

Stage = Literal["compensate", "heal", "quantize", "export"]


def _no_original() -> nn.Module:
    raise InputError("this step needs the original model, but its context has none")


def _no_windows(length: int) -> Tensor:
    raise InputError(f"this step needs windows of {length} tokens, but its context has no text")


@dataclass(frozen=True, slots=True)
class StepContext:
    """What a step may use besides the model.

    Attributes:
        adapter: the model's adapter.
        plan: what was removed.
        calibration: token ids, shape (samples, length), with the step's number of samples.
        tokenizer: the model's tokenizer, or None.
        directory: the step's own directory inside the run directory, for work files; it survives a killed
            run until the step is finished.
        seed: source of all the step's randomness.
        original: loads the unpruned model anew; release it when the step is finished. `Adapter.remove` works
            in place, so no other copy exists.
        source: the GGUF file or directory that the model was loaded from; None if it has none.
        windows: all windows of the given length from the calibration text, in order, shape (windows,
            length); never held-out text.
        texts: the same windows, apart for each source of the text, by its name; texts of different kinds show
            what transfers from one to another. By default one text, `windows`.
        reporter: for progress.
    """

    adapter: Adapter
    plan: RemovalPlan
    calibration: Tensor
    tokenizer: Any
    directory: Path
    seed: int
    original: Callable[[], nn.Module] = _no_original
    windows: Callable[[int], Tensor] = _no_windows
    source: Path | None = None
    reporter: Reporter = field(default_factory=Silent)
    texts: Callable[[int], Mapping[str, Tensor]] | None = None

    def note(self, outcome: str) -> None:
        """Keep what became of the step, for card, manifest and report; one line, also said on the console."""
        self.reporter.say(outcome)
        write_json_atomically(self.directory / NOTE, {"note": outcome})

    def keep_curve(self, curve: LearningCurve) -> None:
        """Keep the learning curve of a step that trains, for card, manifest and report."""
        write_text_atomically(self.directory / LEARNING_CURVE, curve.model_dump_json(indent=2) + "\n")

    def windows_by_text(self, length: int) -> Mapping[str, Tensor]:
        """The calibration text's windows of ``length`` tokens by source; one text if no sources are known."""
        return {"text": self.windows(length)} if self.texts is None else self.texts(length)


@dataclass(frozen=True, eq=False, slots=True)
class StoredModel:
    """A step's result as a checkpoint, for models that their library cannot save from memory.

    Attributes:
        model: the checkpoint in ``directory``, loaded by the adapter's library.
        directory: a checkpoint inside the step's own directory; its files are copied unchanged.
    """

    model: nn.Module
    directory: Path


class PostProcessor(ABC):
    """One step after the cut; its options are the constructor's keyword arguments.

    Attributes:
        stage: a step cannot follow one of a later stage.
        takes_quantized: whether the step accepts a quantized model.
        gives_quantized: whether the step quantizes the weights.
        whole_blocks: whether the step needs whole blocks as players.
        is_last: whether no step can follow.
        samples: number of calibration windows; None: as many as coalitions are measured on.
        tolerance: largest accepted difference between the logits of the result in memory and of its
            checkpoint; None if only the order of the arithmetic may differ.
    """

    stage: ClassVar[Stage]
    takes_quantized: ClassVar[bool] = False
    gives_quantized: ClassVar[bool] = False
    whole_blocks: ClassVar[bool] = False
    is_last: ClassVar[bool] = False
    samples: int | None = None
    tolerance: float | None = None

    @property
    def caveats(self) -> Sequence[str]:
        """Limits of the result to state before the run, such as engines that do not load it."""
        return ()

    def check_source(self, source: Path | None) -> None:  # noqa: B027 - as below
        """Check that `run` will find what it needs; called before the model is loaded.

        Args:
            source: the GGUF file or directory that the model comes from; None if it is not on this machine.

        Raises:
            InputError: with the reason and what to do.
        """

    def check(self, model: nn.Module, adapter: Adapter) -> None:  # noqa: B027 - most steps refuse nothing
        """Check that `run` will work; called on the unpruned model, before any evaluation.

        Args:
            model: the canonicalised original.
            adapter: its adapter.

        Raises:
            InputError: with the reason and what to do.
        """

    @abstractmethod
    def run(self, model: nn.Module, context: StepContext) -> nn.Module | StoredModel:
        """Run the step.

        A restarted run calls it again with the same ``context.directory``, including the files left there;
        the directory is emptied once the step is finished.

        Returns:
            The model for the next step.
        """
