"""The command that measures a model, or two side by side."""

from __future__ import annotations

import gc
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from shapcut.cli.options import AsJson, Calibration, Device, ModelArgument, Seed, Trust
from shapcut.host.host import Host, checkpoint_formats, select_adapter
from shapcut.support.errors import InputError

if TYPE_CHECKING:
    from shapcut.measurement.lm_eval_tasks import Harness, TaskQuestion
    from shapcut.measurement.measure import Assessment, SpeedQuestion, TextQuestion
    from shapcut.models.source import SourceFacts
    from shapcut.support.progress import Reporter


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

    def facts(self, model: str) -> SourceFacts:
        """What is known of a model before its weights are read; refuses what cannot be asked of it."""
        from shapcut.models.source import inspect_source

        formats = checkpoint_formats(self.host)
        facts = inspect_source(model, self.trust_remote_code, formats=formats)
        self.text.check(facts.max_length)
        return facts

    def assess(self, model: str, facts: SourceFacts, said: Reporter) -> Assessment:
        """Load a model, measure it and let go of it."""
        from shapcut.measurement.measure import Assessment, assess
        from shapcut.measurement.sizes import restart_peak_memory
        from shapcut.models.loading import load
        from shapcut.models.source import weights_path

        restarted = restart_peak_memory()
        formats = checkpoint_formats(self.host)
        loaded = load(model, device=self.device, trust_remote_code=self.trust_remote_code, formats=formats)
        adapter = select_adapter(self.host, loaded.model)
        ready = adapter.canonicalise(loaded.model)
        found = assess(
            adapter,
            ready,
            loaded.tokenizer,
            text=self.text,
            speed=self.speed.within(facts.max_length),
            files=weights_path(model, formats),
            seed=self.seed,
            reporter=said,
        )
        if not restarted:
            note = "the peak of memory is that of the whole process: this platform cannot count anew"
            found = replace(found, notes=(*found.notes, note))
        if self.harness is None:
            return found
        scores, notes = self.harness.scores(adapter, ready, loaded.tokenizer, said)
        measurement = found.measurement.model_copy(update={"tasks": scores})
        return Assessment(measurement, (*found.notes, *notes))


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
    from shapcut.cli.output import reporter
    from shapcut.data.windows import check_source
    from shapcut.measurement.lm_eval_tasks import Harness
    from shapcut.measurement.measure import SpeedQuestion, TextQuestion
    from shapcut.recipe.recipe import make_recipe

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
    facts = [job.facts(each) for each in models]
    said = reporter()
    found = []
    for each, known in zip(models, facts, strict=True):
        found.append(job.assess(each, known, said))
        gc.collect()  # models hold themselves in cycles, and the next one needs the room
    _show(models, found, as_json)


def _tasks(names: str | None, path: Path | None, limit: int | None, shots: int | None) -> TaskQuestion | None:
    from shapcut.measurement.lm_eval_tasks import TaskQuestion

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


def _show(models: list[str], found: list[Assessment], as_json: bool) -> None:
    from shapcut.cli import tables
    from shapcut.cli.figures import figure_rows, ratios, task_rows
    from shapcut.cli.output import print_json

    notes = [
        note if len(models) == 1 else f"{model}: {note}"
        for model, each in zip(models, found, strict=True)
        for note in each.notes
    ]
    read = {each.measurement.held_out_fingerprint for each in found}
    if len(read) > 1:
        notes.append("the models cut the text into different tokens: perplexities per token do not compare")
    measurements = [each.measurement for each in found]
    if as_json:
        content: dict[str, Any] = json.loads(measurements[-1].model_dump_json())
        if len(models) > 1:
            other = json.loads(measurements[0].model_dump_json())
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
    if measurements[0].tasks is not None:
        tables.show("tasks", ("task", "metric", *headings[1:]), task_rows(measurements))
    for note in notes:
        tables.say(note)
