"""The command that measures a model, or two side by side."""

import gc
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from shapcut.cli import tables
from shapcut.cli.figures import figure_rows, ratios, task_rows
from shapcut.cli.options import AsJson, Calibration, Device, ModelArgument, Seed, Trust
from shapcut.cli.output import print_json, reporter
from shapcut.data.windows import check_source
from shapcut.host.host import Host
from shapcut.host.open_model import find_model, open_model
from shapcut.measurement.held_out_text import TextQuestion
from shapcut.measurement.lm_eval_tasks import Harness, TaskQuestion
from shapcut.measurement.measure import SpeedQuestion, measure
from shapcut.measurement.record import ModelMeasurement
from shapcut.measurement.sizes import restart_peak_memory
from shapcut.models.source import ModelSource, SourceFacts, inspect_source
from shapcut.recipe.recipe import make_recipe
from shapcut.support.errors import InputError
from shapcut.support.progress import Reporter
from shapcut.support.quiet import quiet_libraries

_ALL = "all"


@dataclass(frozen=True, slots=True)
class _Job:
    """What is asked of every model."""

    host: Host
    text: TextQuestion
    speed: SpeedQuestion
    harness: Harness | None
    device: str
    trust_remote_code: bool
    seed: int

    def find(self, model: str) -> tuple[ModelSource, SourceFacts]:
        """A model and what is known of it before its weights are read; refuses what cannot be asked of it."""
        source = find_model(self.host, model, device=self.device, trust_remote_code=self.trust_remote_code)
        facts = inspect_source(source)
        self.text.check(facts.max_length)
        return source, facts

    def measured(self, source: ModelSource, facts: SourceFacts, said: Reporter) -> ModelMeasurement:
        """Load a model, measure it and let go of it."""
        restarted = restart_peak_memory()
        opened = open_model(self.host, source)
        with quiet_libraries():
            held_out, sliding = self.text.read(opened.tokenizer)
        found = measure(
            opened.adapter,
            opened.model,
            held_out,
            sliding=sliding,
            speed=self.speed.within(facts.max_length),
            tasks=self.harness,
            tokenizer=opened.tokenizer,
            files=source.location.weights,
            seed=self.seed,
            reporter=said,
        )
        notes = list(found.notes)
        if source.location.weights is None:
            notes.append("no checkpoint size: its files are not local")
        if not restarted:
            notes.append("peak memory is the whole process's: this platform cannot reset it")
        return found.model_copy(update={"notes": tuple(notes)})


def evaluate_model(
    host: Host,
    *,
    model: ModelArgument,
    against: Annotated[
        str | None, typer.Option(metavar="OTHER", help="a second model to compare with, such as the original")
    ] = None,
    text: Annotated[
        str | None,
        typer.Option(
            metavar="SOURCE",
            help="all of this text instead: a .txt or .jsonl file, builtin or hf:NAME:CONFIG:SPLIT",
        ),
    ] = None,
    calibration: Calibration = None,
    window: Annotated[
        str | None,
        typer.Option(
            "--window", "--sequence-length", metavar="N", help="tokens read at a time [default: 128]"
        ),
    ] = None,
    stride: Annotated[
        str | None,
        typer.Option(metavar="N", help="windows overlap: only the last N tokens of each are scored"),
    ] = None,
    held_out_samples: Annotated[
        str | None, typer.Option(metavar="N", help="windows of text, or all [default: 32]")
    ] = None,
    prompt_tokens: Annotated[int, typer.Option(min=1, help="length of the prompts that are timed")] = 128,
    new_tokens: Annotated[int, typer.Option(min=1, help="tokens made after each prompt")] = 16,
    repeats: Annotated[int, typer.Option(min=0, help="measurements of latency, 0 for none")] = 5,
    batch_size: Annotated[int, typer.Option(min=1, help="sequences generated at a time")] = 1,
    cache_lengths: Annotated[
        str, typer.Option(metavar="N,N", help="tokens after which the cache is measured, or none")
    ] = "128,512",
    task_names: Annotated[
        str | None, typer.Option("--tasks", metavar="A,B", help="tasks of lm-evaluation-harness")
    ] = None,
    task_path: Annotated[
        Path | None, typer.Option("--task-path", metavar="DIR", help="where more tasks are defined, as YAML")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="examples of each task at most")] = None,
    num_fewshot: Annotated[
        int | None, typer.Option(min=0, help="solved examples before each question [default: the task's]")
    ] = None,
    device: Device = None,
    seed: Seed = None,
    trust_remote_code: Trust = None,
    as_json: AsJson = False,
) -> None:
    """Perplexity, size, memory and latency of one model, or of two side by side."""
    everything = held_out_samples == _ALL
    recipe = make_recipe(
        {
            "model": model,
            "calibration": calibration,
            "sequence_length": window,
            "held_out_samples": None if everything else held_out_samples,
            "seed": seed,
        }
    )
    if text is not None and calibration is not None:
        raise InputError("--text and --calibration both name the text to measure on; give one")
    question = TextQuestion(
        source=text or recipe.calibration,
        whole=text is not None,
        window=recipe.sequence_length,
        windows=None if everything else recipe.held_out_samples,
        stride=None if stride is None else _number("--stride", stride),
    )
    check_source(question.source)
    lengths = () if cache_lengths == "none" else _lengths(cache_lengths)
    asked = _tasks(task_names, task_path, limit, num_fewshot)
    harness = None if asked is None else Harness.prepared(asked)
    job = _Job(
        host,
        question,
        SpeedQuestion(prompt_tokens, new_tokens, repeats, batch_size, lengths),
        harness,
        device or "auto",
        bool(trust_remote_code),
        recipe.seed,
    )
    models = [model] if against is None else [against, model]
    sources = [job.find(each) for each in models]
    said = reporter()
    found = []
    for source, facts in sources:
        found.append(job.measured(source, facts, said))
        gc.collect()  # models hold themselves in cycles, and the next one needs the room
    _show(models, found, as_json)


def _tasks(names: str | None, path: Path | None, limit: int | None, shots: int | None) -> TaskQuestion | None:
    if names is None:
        if given := [
            name
            for name, value in (("--task-path", path), ("--limit", limit), ("--num-fewshot", shots))
            if value is not None
        ]:
            raise InputError(f"{given[0]} is for tasks: name them with --tasks")
        return None
    wanted = tuple(dict.fromkeys(name.strip() for name in names.split(",") if name.strip()))
    return TaskQuestion(wanted, path, limit, shots)


def _number(option: str, text: str) -> int:
    try:
        return int(text)
    except ValueError as error:
        raise InputError(f"{option} {text}: a whole number is wanted") from error


def _lengths(text: str) -> tuple[int, ...]:
    lengths = tuple(_number("--cache-lengths", part) for part in text.split(","))
    if min(lengths) < 1:
        raise InputError(f"--cache-lengths {text}: a length is at least 1")
    return lengths


def _show(models: list[str], measurements: list[ModelMeasurement], as_json: bool) -> None:
    notes = [
        note if len(models) == 1 else f"{model}: {note}"
        for model, each in zip(models, measurements, strict=True)
        for note in each.notes
    ]
    read = {each.held_out_fingerprint for each in measurements}
    if len(read) > 1:
        notes.append("the models cut the text into different tokens: perplexities per token do not compare")
    if as_json:
        content = _content(measurements[-1])
        if len(models) > 1:
            other = _content(measurements[0])
            content = {
                "model": {"source": models[1], **content},
                "against": {"source": models[0], **other},
                "ratios": ratios(measurements),
            }
        print_json({**content, "notes": notes})
        return
    names = [Path(model).name or model for model in models]
    headings = ("figure", *names, "ratio")[: len(models) + 1 + (len(models) > 1)]
    tables.show(" against ".join(reversed(names)), headings, figure_rows(measurements))
    if any(each.tasks for each in measurements):
        tables.show("tasks", ("task", "metric", *headings[1:]), task_rows(measurements))
    for note in notes:
        tables.say(note)


def _content(measurement: ModelMeasurement) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(measurement.model_dump_json(exclude={"notes"}))
    return content
