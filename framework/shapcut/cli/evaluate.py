"""The command that measures a model, or two side by side."""

from __future__ import annotations

import gc
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from shapcut.cli import completion, options
from shapcut.cli.help import Command
from shapcut.cli.options import A_PATH, option, recipe_option, recipe_options
from shapcut.host.host import Host
from shapcut.support.errors import InputError

if TYPE_CHECKING:
    from shapcut.measurement.held_out_text import TextQuestion
    from shapcut.measurement.lm_eval_tasks import Harness
    from shapcut.measurement.measure import SpeedQuestion
    from shapcut.measurement.record import ModelMeasurement
    from shapcut.models.source import ModelSource, SourceFacts
    from shapcut.recipe.recipe import Recipe
    from shapcut.support.progress import Reporter


_ALL = "all"
_TEXT_OF_RECIPE = ("calibration", "sequence_length", "held_out_samples", "judge_on")
_INTERVALS = (
    "95 % t intervals: of perplexities over windows, paired between models; of durations over repeats"
)


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
    text_only: bool

    def find_all(self, asked: list[tuple[str, str | None]]) -> list[tuple[ModelSource, SourceFacts]]:
        """All models; with --text-only the language models of those that are multimodal, at least one."""
        found = [self.find(model, revision) for model, revision in asked]
        if not self.text_only:
            return found
        multimodal = [self._is_multimodal(source) for source, _ in found]
        if not any(multimodal):
            multimodal[-1] = True  # MODEL itself, which is then refused as by other commands
        return [
            self.find(model, revision, text_only=True) if has_more else known
            for (model, revision), has_more, known in zip(asked, multimodal, found, strict=True)
        ]

    def _is_multimodal(self, source: ModelSource) -> bool:
        from shapcut.models.multimodal import is_multimodal
        from shapcut.models.source import read_config

        location = source.location
        if location.format is not None or location.gguf_file is not None:
            return False
        return is_multimodal(read_config(location, self.trust_remote_code))

    def find(
        self, model: str, revision: str | None = None, *, text_only: bool = False
    ) -> tuple[ModelSource, SourceFacts]:
        """A model and what is known of it before its weights are read; refuses what cannot be asked of it."""
        from shapcut.host.open_model import find_model
        from shapcut.models.source import inspect_source

        source = find_model(
            self.host,
            model,
            device=self.device,
            trust_remote_code=self.trust_remote_code,
            revision=revision,
            text_only=text_only,
        )
        facts = inspect_source(source)
        self.text.check(facts.max_length)
        return source, facts

    def measured(self, source: ModelSource, facts: SourceFacts, said: Reporter) -> ModelMeasurement:
        """Load a model, measure it and let go of it."""
        from shapcut.host.open_model import open_model
        from shapcut.measurement.measure import measure
        from shapcut.measurement.sizes import restart_peak_memory
        from shapcut.support.quiet import quiet_libraries

        restarted = restart_peak_memory()
        opened = open_model(self.host, source)
        with quiet_libraries():
            held_out, sliding = self.text.read(opened.tokenizer)
            others = self.text.others(opened.tokenizer)
        found = measure(
            opened.adapter,
            opened.model,
            held_out,
            others=others,
            sliding=sliding,
            speed=self.speed.within(facts.max_length),
            tasks=self.harness,
            tokenizer=opened.tokenizer,
            files=None if source.location.text_only else source.location.weights,
            seed=self.seed,
            reporter=said,
        )
        notes = list(found.notes)
        if source.location.text_only:
            notes.append("no checkpoint size: its files hold more than the language model")
        elif source.location.weights is None:
            notes.append("no checkpoint size: its files are not local")
        if not restarted:
            notes.append("peak memory is the whole process's: this platform cannot reset it")
        return found.model_copy(update={"notes": tuple(notes)})


_AT_LEAST_ONE = click.IntRange(min=1)


@click.command("evaluate", cls=Command, panel="Judge")
@options.model_argument
@option(
    "--against",
    metavar="OTHER",
    help="a second model to compare with, such as the original",
    panel="Model",
    shell_complete=completion.file_or(completion.models),
)
@option(
    "--text",
    metavar="SOURCE",
    help="all of this text instead: a .txt or .jsonl file, builtin, general or hf:NAME:CONFIG:SPLIT",
    panel="Text",
    shell_complete=completion.file_or(completion.texts),
)
@recipe_option("calibration")
@recipe_option("sequence_length", "--window", "--sequence-length", "window")
@option("--stride", metavar="N", help="overlap windows: score only the last N tokens of each", panel="Text")
@recipe_option("held_out_samples", help="number of windows of held-out text, or all")
@recipe_option("judge_on", default_text="builtin and general, whichever is not the text; none with --text")
@option(
    "--prompt-tokens",
    metavar="N",
    type=_AT_LEAST_ONE,
    default=128,
    help="length of the prompts that are timed",
    panel="Generation",
)
@option(
    "--new-tokens",
    metavar="N",
    type=_AT_LEAST_ONE,
    default=16,
    help="tokens to generate after each prompt",
    panel="Generation",
)
@option(
    "--repeats",
    metavar="N",
    type=click.IntRange(min=0),
    default=5,
    help="measurements of latency, 0 for none",
    panel="Generation",
)
@option(
    "--batch-size",
    metavar="N",
    type=_AT_LEAST_ONE,
    default=1,
    help="sequences to generate at a time",
    panel="Generation",
)
@option(
    "--cache-lengths",
    metavar="N,N",
    default="128,512",
    help="tokens after which the cache is measured, or none",
    panel="Generation",
)
@recipe_option("tasks", "--tasks", "task_names")
@recipe_option("task_data")
@option("--task-path", type=A_PATH, metavar="DIR", help="directory of more tasks, as YAML", panel="Tasks")
@recipe_option("limit")
@option(
    "--num-fewshot",
    metavar="N",
    type=click.IntRange(min=0),
    help="solved examples before each question",
    default_text="the task's",
    panel="Tasks",
)
@recipe_options(("device", "seed", "trust_remote_code", "revision", "text_only"))
@options.as_json
@click.pass_obj
def evaluate(
    host: Host,
    /,
    *,
    model: str,
    against: str | None,
    text: str | None,
    calibration: str | None,
    window: str | None,
    stride: str | None,
    held_out_samples: str | None,
    judge_on: tuple[str, ...] | None,
    prompt_tokens: int,
    new_tokens: int,
    repeats: int,
    batch_size: int,
    cache_lengths: str,
    task_names: str | None,
    task_data: str | None,
    task_path: Path | None,
    limit: str | None,
    num_fewshot: int | None,
    device: str | None,
    seed: str | None,
    trust_remote_code: bool | None,
    revision: str | None,
    text_only: bool | None,
    as_json: bool,
) -> None:
    """Perplexity, size, memory and latency of a model, or of two."""
    from shapcut.measurement.lm_eval_tasks import Harness
    from shapcut.measurement.measure import SpeedQuestion
    from shapcut.recipe.recipe import make_recipe

    if text is not None and calibration is not None:
        raise InputError("--text and --calibration both name the text to measure on; give one")
    given = {
        "calibration": calibration,
        "sequence_length": window,
        "held_out_samples": None if held_out_samples == _ALL else held_out_samples,
        "judge_on": judge_on,
        "limit": limit,
    }
    judged = {} if text or calibration else _judged(model, against)
    recipe = make_recipe(
        {"model": model, "seed": seed, **judged, **{key: value for key, value in given.items() if value}}
    )
    windows = None if held_out_samples == _ALL else recipe.held_out_samples
    job = _Job(
        host,
        _text(text, recipe, windows, stride),
        SpeedQuestion(prompt_tokens, new_tokens, repeats, batch_size, _lengths(cache_lengths)),
        Harness.asked(task_names, path=task_path, data=task_data, limit=recipe.limit, shots=num_fewshot),
        device or "auto",
        bool(trust_remote_code),
        recipe.seed,
        bool(text_only),
    )
    asked = [(model, revision)] if against is None else [(against, None), (model, revision)]
    _evaluate(job, asked, as_json)


def _evaluate(job: _Job, asked: list[tuple[str, str | None]], as_json: bool) -> None:
    from shapcut.cli.output import reporter

    sources = job.find_all(asked)
    said = reporter()
    found = []
    for source, facts in sources:
        found.append(job.measured(source, facts, said))
        gc.collect()  # models hold themselves in cycles, and the next one needs the room
    _show([model for model, _ in asked], found, as_json)


def _judged(*models: str | None) -> dict[str, Any]:
    """The text on which shapcut judged the first of these models that it wrote; empty if it wrote none.

    Raises:
        InputError: if that text cannot be read any more.
    """
    from shapcut.data.mixture import check_source, without_own_text
    from shapcut.recipe.recipe import make_recipe

    for model in filter(None, models):
        directory = Path(model)
        file = directory / "recipe.yaml"
        if not file.is_file() or not (directory / "plan.json").is_file():
            continue  # other tools write a recipe.yaml, too
        recipe = make_recipe({}, file)
        text = without_own_text(recipe.calibration)
        try:
            check_source(text)
        except InputError as error:
            raise InputError(
                f"{file} names the text that {directory.name} was judged on: {error}; or name another with "
                "--calibration"
            ) from error
        return {name: getattr(recipe, name) for name in _TEXT_OF_RECIPE} | {"calibration": text}
    return {}


def _text(text: str | None, recipe: Recipe, windows: int | None, stride: str | None) -> TextQuestion:
    """All of ``text``, or the held-out part of the calibration text; refused before a model is loaded."""
    from shapcut.measurement.held_out_text import TextQuestion

    question = TextQuestion(
        source=text or recipe.calibration,
        whole=text is not None,
        window=recipe.sequence_length,
        windows=windows,
        stride=None if stride is None else _number("--stride", stride),
        judge_on=recipe.judge_on,
    )
    question.check_texts()
    return question


def _number(option: str, text: str) -> int:
    try:
        return int(text)
    except ValueError as error:
        raise InputError(f"{option} {text}: a whole number is wanted") from error


def _lengths(text: str) -> tuple[int, ...]:
    if text == "none":
        return ()
    lengths = tuple(_number("--cache-lengths", part) for part in text.split(","))
    if min(lengths) < 1:
        raise InputError(f"--cache-lengths {text}: a length is at least 1")
    return lengths


def _show(models: list[str], measurements: list[ModelMeasurement], as_json: bool) -> None:
    from shapcut.cli import tables
    from shapcut.cli.figures import (
        difference_rows,
        differences,
        figure_rows,
        intervals,
        ratios,
        task_rows,
    )
    from shapcut.cli.output import print_json

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
                "intervals": {key: ratio.to_json() for key, ratio in intervals(measurements).items()},
                "differences": [each.model_dump() for each in differences(measurements)],
            }
        print_json({**content, "notes": notes})
        return
    names = [Path(model).name or model for model in models]
    headings = ("figure", *names, *(("ratio",) if len(models) > 1 else ()))
    more = ("its interval",) if len(models) > 1 else ()
    tables.show(" against ".join(reversed(names)), (*headings, *more), figure_rows(measurements))
    if any(each.tasks for each in measurements):
        tables.show("tasks", ("task", "metric", *headings[1:]), task_rows(measurements))
    if paired := differences(measurements):
        tables.show(tables.PAIRED, tables.PAIRED_HEADINGS, difference_rows(paired))
    tables.say(f"text: {tables.described(measurements[-1])}; intervals are {_INTERVALS}")
    for note in notes:
        tables.say(note)


def _content(measurement: ModelMeasurement) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(measurement.model_dump_json(exclude={"notes"}))
    results = [(content, measurement.perplexity)]
    results += [
        (part, each.perplexity)
        for part, each in zip(content["other_texts"], measurement.other_texts, strict=True)
    ]
    for part, read in results:
        interval = read.interval
        part["perplexity"]["interval"] = None if interval is None else [interval.low, interval.high]
    return content
