"""Post-pruning steps: which may follow which, and how a killed run goes on after the last finished one."""

import hashlib
import json
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, get_args

import pluggy
from torch import nn

from shapcut.export.checkpoint import save
from shapcut.models.adapter import Adapter
from shapcut.steps.step import PostProcessor, Stage, StepContext, StoredModel
from shapcut.support.errors import InputError
from shapcut.support.files import copy_tree, new_directory, write_json_atomically
from shapcut.support.progress import Reporter
from shapcut.support.quiet import quiet_libraries

_STEP = re.compile(r"[1-9][0-9]*-[A-Za-z0-9][A-Za-z0-9._-]*")

Steps = Sequence[tuple[str, PostProcessor]]
"""Steps in the recipe's order, each with the text that asked for it."""


def check_order(steps: Steps, quantization: str | None = None) -> None:
    """Refuse steps in an order that makes no sense.

    Args:
        steps: what is to be done.
        quantization: the method that the weights of the original are quantized by, or None.

    Raises:
        InputError: naming the first step that cannot work on what comes before it.
    """
    stages: tuple[Stage, ...] = get_args(Stage)
    for (earlier, first), (later, second) in pairwise(steps):
        if stages.index(first.stage) > stages.index(second.stage):
            raise InputError(
                f"step {later!r} ({second.stage}) cannot follow {earlier!r} ({first.stage}): "
                f"the order is {', '.join(stages)}"
            )
    quantizer = quantization and f"the model is quantized already ({quantization})"
    for spec, step in steps:
        if quantizer and not step.takes_quantized:
            raise InputError(f"step {spec!r} needs weights in full precision, and {quantizer}; leave it out")
        if step.gives_quantized:
            quantizer = f"{spec!r} quantizes them before it"


@dataclass(frozen=True, eq=False, slots=True)
class PostProcessed:
    """What the last step left.

    Attributes:
        model: the model in memory.
        checkpoint: a directory with what saving it writes.
        tolerance: largest accepted difference of logits between the two; None: by the number format.
    """

    model: nn.Module
    checkpoint: Path
    tolerance: float | None


class StepResults:
    """The results of steps in a run directory: the last finished one is kept until the next is finished.

    Each step has a directory ``NUMBER-NAME`` with ``step.json`` (what its result belongs to), ``work`` (the
    step's own files while it is not finished), ``result`` (a checkpoint, there only when it is complete) and
    what the step reports: the JSON files of its work.
    What belongs to another recipe, plan, model or text is deleted.

    Args:
        directory: where they are kept.
        specs: the recipe's steps.
        inputs: what else decides a result, as plain data.
    """

    def __init__(self, directory: Path, specs: Sequence[str], inputs: Mapping[str, Any]) -> None:
        self._directory = directory
        self._fingerprints = {
            f"{number}-{spec.partition(':')[0]}": _digest({**inputs, "steps": list(specs[:number])})
            for number, spec in enumerate(specs, start=1)
        }
        self._names = list(self._fingerprints)
        for found in step_directories(directory):
            if _read_fingerprint(found) != self._fingerprints.get(found.name, ""):
                shutil.rmtree(found)

    def finished(self) -> int:
        """How many steps need not be done again."""
        done = [number for number, name in enumerate(self._names, 1) if self.result(number).exists()]
        return max(done, default=0)

    def result(self, number: int) -> Path:
        """Where the checkpoint of a step (counted from 1) is when it is finished."""
        return self._directory / self._names[number - 1] / "result"

    def begin(self, number: int) -> Path:
        """The step's own directory, with what a killed run left there."""
        name = self._names[number - 1]
        work = self._directory / name / "work"
        work.mkdir(parents=True, exist_ok=True)
        write_json_atomically(work.parent / "step.json", {"fingerprint": self._fingerprints[name]})
        return work

    def finish(self, number: int, write: Callable[[Path], None]) -> None:
        """Keep a step's result, which ``write`` puts into a directory; delete what it makes superfluous."""
        with new_directory(self.result(number)) as directory:
            write(directory)
        work = self.result(number).with_name("work")
        for report in work.glob("*.json"):
            report.replace(work.parent / report.name)
        shutil.rmtree(work)
        if number > 1:
            shutil.rmtree(self.result(number - 1), ignore_errors=True)

    def clear(self) -> None:
        """Delete everything but what steps report."""
        clear_results(self._directory)


def step_directories(directory: Path) -> list[Path]:
    """The directories of steps below ``directory``; links and other names are not ours and left alone."""
    found = sorted(directory.iterdir()) if directory.is_dir() and not directory.is_symlink() else []
    return [path for path in found if _STEP.fullmatch(path.name) and path.is_dir() and not path.is_symlink()]


def clear_results(directory: Path) -> None:
    """Delete the results of the steps below ``directory``, not what they report."""
    for step in step_directories(directory):
        if not (step / "result").is_symlink():
            shutil.rmtree(step / "result", ignore_errors=True)


def run_steps(
    steps: Steps,
    model: nn.Module,
    results: StepResults,
    *,
    adapter: Adapter,
    context: Callable[[PostProcessor, Path], StepContext],
    hook: pluggy.HookRelay,
    reporter: Reporter,
) -> PostProcessed:
    """Do the steps that are not finished yet, one after the other.

    Args:
        steps: at least one.
        model: the pruned model.
        results: what is finished, and where results go.
        adapter: the model's adapter.
        context: what a step may use, given the step and its own directory.
        hook: calls ``shapcut_step_finished`` after each step.
        reporter: told what is done.
    """
    done = results.finished()
    if done:
        reporter.say(f"step {steps[done - 1][0]} was finished by an earlier start")
        model = _loaded(adapter, results.result(done), model)
    for number, (spec, step) in enumerate(steps[done:], start=done + 1):
        with reporter.working(f"step {spec}"):
            model = _done(step, model, context(step, results.begin(number)), results, number)
        hook.shapcut_step_finished(name=spec, model=model)
    tolerances = [step.tolerance for _, step in steps if step.tolerance is not None]
    return PostProcessed(model, results.result(len(steps)), max(tolerances, default=None))


def _done(
    step: PostProcessor, model: nn.Module, context: StepContext, results: StepResults, number: int
) -> nn.Module:
    """The model after a step whose result is kept."""
    outcome = step.run(model, context)
    if isinstance(outcome, StoredModel):
        stored = outcome.directory
        results.finish(number, lambda directory: copy_tree(stored, directory))
        return outcome.model
    pruned: nn.Module = outcome
    with quiet_libraries():
        results.finish(number, lambda directory: save(context.adapter, pruned, directory))
    return pruned


def _loaded(adapter: Adapter, directory: Path, like: nn.Module) -> nn.Module:
    """A step's result, where and as the model in memory is."""
    with quiet_libraries():
        model = adapter.load(directory).requires_grad_(requires_grad=False)
    device = adapter.input_device(like)
    return model if adapter.input_device(model) == device else model.to(device)


def _digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _read_fingerprint(directory: Path) -> str | None:
    """What the step in a directory belongs to, or None if it does not say."""
    try:
        content = json.loads((directory / "step.json").read_text(encoding="utf-8"))
        return str(content["fingerprint"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
