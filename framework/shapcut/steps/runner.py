"""Run post-pruning steps in order; a killed run resumes after the last finished step."""

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
from shapcut.measurement.learning_curve import LearningCurve
from shapcut.models.adapter import Adapter
from shapcut.steps.step import LEARNING_CURVE, NOTE, PostProcessor, Stage, StepContext, StoredModel
from shapcut.support.errors import InputError
from shapcut.support.files import copy_tree, file_digests, new_directory, write_json_atomically
from shapcut.support.plain_json import read_json
from shapcut.support.progress import Reporter
from shapcut.support.quiet import quiet_libraries

_STEP = re.compile(r"[1-9][0-9]*-[A-Za-z0-9][A-Za-z0-9._-]*")

Steps = Sequence[tuple[str, PostProcessor]]
"""Steps in the recipe's order, each with its text form."""


def check_order(steps: Steps, quantization: str | None = None) -> None:
    """Refuse an impossible order of steps.

    Args:
        steps: in the order of execution.
        quantization: the original's quantization method, or None.

    Raises:
        InputError: naming the first step that cannot follow its predecessor.
    """
    stages: tuple[Stage, ...] = get_args(Stage)
    for (earlier, first), (later, second) in pairwise(steps):
        if first.is_last:
            raise InputError(f"step {later!r} cannot follow {earlier!r}, which is the last one")
        if stages.index(first.stage) > stages.index(second.stage):
            raise InputError(
                f"step {later!r} ({second.stage}) cannot follow {earlier!r} ({first.stage}): "
                f"the order is {', '.join(stages)}"
            )
    quantizer = quantization and f"the model is already quantized ({quantization})"
    for spec, step in steps:
        if quantizer and not step.takes_quantized:
            raise InputError(f"step {spec!r} needs weights in full precision, but {quantizer}; leave it out")
        if step.gives_quantized:
            quantizer = f"{spec!r} quantizes them first"


@dataclass(frozen=True, eq=False, slots=True)
class PostProcessed:
    """The result of the last step.

    Attributes:
        model: the model in memory.
        checkpoint: a directory with the saved model.
        tolerance: largest accepted difference of logits between the two; None: by dtype.
        notes: what became of each step; empty for a step that does not say.
        curves: the learning curve of each step; None for a step that keeps none.
    """

    model: nn.Module
    checkpoint: Path
    tolerance: float | None
    notes: tuple[str, ...] = ()
    curves: tuple[LearningCurve | None, ...] = ()


class StepResults:
    """Step results in a run directory; the last two are kept, since the last may be damaged.

    Each step has a directory ``NUMBER-NAME`` with ``step.json`` (the fingerprint of its inputs, and the
    SHA-256 of its result's files), ``work``
    (the step's own files until it is finished), ``result`` (a complete checkpoint) and the step's reports:
    the JSON files of its work. Results of another recipe, plan, model or text are deleted.

    Args:
        directory: holds the results.
        specs: the recipe's steps.
        inputs: everything else a result depends on, as plain data.
    """

    def __init__(self, directory: Path, specs: Sequence[str], inputs: Mapping[str, Any]) -> None:
        self._directory = directory
        self._fingerprints = {
            f"{number}-{spec.partition(':')[0]}": _digest({**inputs, "steps": list(specs[:number])})
            for number, spec in enumerate(specs, start=1)
        }
        self._names = list(self._fingerprints)
        for found in step_directories(directory):
            if _read_step(found).get("fingerprint") != self._fingerprints.get(found.name, ""):
                shutil.rmtree(found)

    def finished(self) -> int:
        """The number of steps that are finished; damaged results are deleted."""
        for number in range(len(self._names), 0, -1):
            result = self.result(number)
            if result.exists():
                if _read_step(result.parent).get("files") == file_digests(result):
                    return number
                shutil.rmtree(result)
        return 0

    def result(self, number: int) -> Path:
        """The checkpoint directory of a finished step (counted from 1)."""
        return self._directory / self._names[number - 1] / "result"

    def begin(self, number: int) -> Path:
        """The step's own directory, with the files a killed run left there."""
        name = self._names[number - 1]
        work = self._directory / name / "work"
        work.mkdir(parents=True, exist_ok=True)
        self._describe(number, {})
        return work

    def finish(self, number: int, write: Callable[[Path], None]) -> None:
        """Keep a step's result, written by ``write``, and delete all but the one before it."""
        with new_directory(self.result(number)) as directory:
            write(directory)
            self._describe(number, file_digests(directory))
        work = self.result(number).with_name("work")
        for report in work.glob("*.json"):
            report.replace(work.parent / report.name)
        shutil.rmtree(work)
        for earlier in range(1, number - 1):
            shutil.rmtree(self.result(earlier), ignore_errors=True)

    def note(self, number: int) -> str:
        """What became of a finished step (counted from 1), as it noted itself; empty without a note."""
        try:
            return str(read_json(self.result(number).with_name(NOTE))["note"])
        except (InputError, OSError, ValueError, KeyError, TypeError):
            return ""

    def curve(self, number: int) -> LearningCurve | None:
        """The learning curve of a finished step (counted from 1); None if it kept none."""
        path = self.result(number).with_name(LEARNING_CURVE)
        try:
            return LearningCurve.model_validate(read_json(path))
        except (InputError, OSError, ValueError):
            return None

    def _describe(self, number: int, files: Mapping[str, str]) -> None:
        name = self._names[number - 1]
        content = {"fingerprint": self._fingerprints[name], "files": files}
        write_json_atomically(self._directory / name / "step.json", content)

    def clear(self) -> None:
        """Delete everything but the steps' reports."""
        clear_results(self._directory)


def step_directories(directory: Path) -> list[Path]:
    """The step directories below ``directory``; links and other names are ignored."""
    found = sorted(directory.iterdir()) if directory.is_dir() and not directory.is_symlink() else []
    return [path for path in found if _STEP.fullmatch(path.name) and path.is_dir() and not path.is_symlink()]


def clear_results(directory: Path) -> None:
    """Delete the results of the steps below ``directory``, but not their reports."""
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
    """Run the steps that are not finished yet.

    Args:
        steps: at least one.
        model: the pruned model.
        results: finished results; receives the new ones.
        adapter: the model's adapter.
        context: makes a step's context from the step and its own directory.
        hook: receives ``shapcut_step_finished`` after each step.
        reporter: for progress.
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
    numbers = range(1, len(steps) + 1)
    return PostProcessed(
        model,
        results.result(len(steps)),
        max(tolerances, default=None),
        notes=tuple(map(results.note, numbers)),
        curves=tuple(map(results.curve, numbers)),
    )


def _done(
    step: PostProcessor, model: nn.Module, context: StepContext, results: StepResults, number: int
) -> nn.Module:
    """Run one step, keep its result, return its model."""
    with quiet_libraries():
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
    """A step's result, loaded onto the device of ``like``."""
    with quiet_libraries():
        model = adapter.load(directory).requires_grad_(requires_grad=False)
    device = adapter.input_device(like)
    return model if adapter.input_device(model) == device else model.to(device)


def _digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _read_step(directory: Path) -> dict[str, Any]:
    """The content of a step's ``step.json``; empty if it is unreadable."""
    try:
        content = read_json(directory / "step.json")
    except (InputError, OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
