"""A pruning with three steps that is killed when one is finished."""

import os
import signal
from pathlib import Path
from typing import Any, ClassVar

from shapcut.host.hookspecs import Register, hookimpl
from shapcut.host.host import build_host
from shapcut.pipeline.prune import prune
from shapcut.recipe.recipe import make_recipe
from shapcut.steps.step import PostProcessor, Stage, StepContext

STEPS = ("shift:by=1", "shift:by=2", "cast")


class Shift(PostProcessor):
    """Adds a constant to the weights of the norms."""

    stage: ClassVar[Stage] = "compensate"

    def __init__(self, by: float) -> None:
        self.by = by

    def run(self, model: Any, context: StepContext) -> Any:
        for name, weight in model.named_parameters():
            if "norm" in name:
                weight.data.add_(self.by)
        return model


class Killer:
    """Offers the step, says which steps ran, and kills the process after one of them."""

    def __init__(self, after: str) -> None:
        self.after = after

    @hookimpl
    def shapcut_register_postprocessors(self, register: Register) -> None:
        register("shift", Shift)

    @hookimpl
    def shapcut_step_finished(self, name: str) -> None:
        print(name, flush=True)  # noqa: T201 - read by the test
        if name == self.after:
            os.kill(os.getpid(), signal.SIGKILL)


def run(model: str | Path, out: str | Path, kill_after: str = "") -> None:
    """The whole pipeline."""
    options = {
        "model": str(model),
        "remove": 2,
        "budget": 10,
        "samples": 2,
        "sequence_length": 16,
        "finalist_samples": 0,
        "held_out_samples": 2,
        "then": STEPS,
    }
    prune(make_recipe(options), Path(out), build_host(extra=[Killer(kill_after)]))
