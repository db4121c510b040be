"""The command that asks an inference engine about a pruned model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from shapcut.cli import options
from shapcut.cli.completion import file_or, models, offered, texts
from shapcut.cli.help import Command
from shapcut.cli.options import A_PATH, OUTPUT, option, recipe_option
from shapcut.host.host import Host
from shapcut.support.errors import InputError, ShapcutError

if TYPE_CHECKING:
    from shapcut.models.source import ModelSource
    from shapcut.recipe.recipe import Recipe
    from shapcut.serving.engine import Engine
    from shapcut.serving.record import ServingCheck, Side

_ENGINE = "Engine"


@click.command("serve-check", cls=Command, panel="Judge")
@click.argument("out", metavar="OUT", type=A_PATH, help="a pruned checkpoint's directory or .gguf file")
@option(
    "--engine",
    metavar="NAME",
    required=True,
    help="transformers, vllm, llama.cpp or a plugin's",
    panel=_ENGINE,
    shell_complete=offered("engines"),
)
@option("--python", metavar="PYTHON", help="Python that has the engine [default: this one]", panel=_ENGINE)
@option(
    "--original",
    metavar="MODEL",
    help="the uncut model [default: OUT's recipe names it]",
    shell_complete=file_or(models),
)
@option(
    "--text",
    metavar="SOURCE",
    help="prompts are held-out text of this source [default: the run's]",
    shell_complete=file_or(texts),
)
@option(
    "--dtype",
    metavar="DTYPE",
    type=click.Choice(("float32", "bfloat16", "float16")),
    default="float32",
    help="number format of the computation",
    panel=_ENGINE,
)
@option("--threads", metavar="N", type=click.IntRange(min=1), help="processor threads", panel=_ENGINE)
@option(
    "--repeats",
    metavar="N",
    type=click.IntRange(min=0),
    default=3,
    help="measurements of the speed, 0 for none",
    panel=_ENGINE,
)
@option(
    "--timeout",
    metavar="SECONDS",
    type=click.FloatRange(min=0.0, min_open=True),
    default=600.0,
    help="that each of the processes may take",
    panel=_ENGINE,
)
@option(
    "--run",
    type=A_PATH,
    metavar="DIR",
    help="the run's directory, which keeps the result [default: OUT.run]",
    panel=OUTPUT,
)
@recipe_option("trust_remote_code")
@options.as_json
@click.pass_obj
def serve_check(
    host: Host,
    /,
    *,
    out: Path,
    engine: str,
    python: str | None,
    original: str | None,
    text: str | None,
    dtype: str,
    threads: int | None,
    repeats: int,
    timeout: float,
    run: Path | None,
    trust_remote_code: bool | None,
    as_json: bool,
) -> None:
    """Whether an inference engine runs a pruned model as it runs the original."""
    from shapcut.cli.output import reporter
    from shapcut.pipeline.serving import beside, keep, made_from
    from shapcut.serving.check import ServingQuestion, check_serving
    from shapcut.serving.process import Interpreter

    chosen = host.engines.create(engine)
    recipe = made_from(out, run)
    uncut = original or (recipe.model if recipe else None)
    if uncut is None:
        raise InputError(f"{out} has no recipe that names the uncut model; name it with --original")
    trust = bool(trust_remote_code)
    check = check_serving(
        ServingQuestion(
            result=out.resolve().name,
            name=engine.partition(":")[0],
            engine=chosen,
            interpreter=Interpreter(python, {} if threads is None else {"OMP_NUM_THREADS": str(threads)}),
            text=text or _text(recipe),
            dtype=dtype,
            repeats=repeats,
            threads=threads,
            timeout=timeout,
        ),
        _source(host, chosen, str(out), trust=trust),
        _source(host, chosen, uncut, trust=trust),
        reporter(),
    )
    kept = keep(check, out, beside(out, run), host)
    _show(check, kept, as_json)
    _end(check)


def _text(recipe: Recipe | None) -> str:
    """The run's own text, if it is still there."""
    from shapcut.data.text import BUILTIN, HUB_PREFIX

    source = BUILTIN if recipe is None else recipe.calibration
    return source if source.startswith(HUB_PREFIX) or Path(source).is_file() else BUILTIN


def _source(host: Host, engine: Engine, name: str, *, trust: bool) -> ModelSource:
    """What the engine loads of a model: it, or a GGUF file in its directory."""
    from shapcut.host.open_model import find_model
    from shapcut.models.source import inspect_source
    from shapcut.serving.check import local_files

    source = find_model(host, name, trust_remote_code=trust)
    files = local_files(source)
    chosen = engine.model_file(files)
    if chosen != files:
        source = find_model(host, str(chosen), trust_remote_code=trust)
    inspect_source(source)
    return source


def _show(check: ServingCheck, kept: Path | None, as_json: bool) -> None:
    from shapcut.cli import tables
    from shapcut.cli.output import print_json

    if as_json:
        content = json.loads(check.model_dump_json())
        print_json({**content, "sentence": check.sentence})
        return
    version = f" {check.version}" if check.version else ""
    prompts = f"{check.text.prompts} prompts of {check.text.length} tokens, {check.text.source}"
    tables.show(
        f"{check.engine}{version}, {check.dtype}, {prompts}",
        ("", "original", "pruned"),
        serving_rows(check),
    )
    tables.say(check.sentence)
    if kept is not None:
        tables.say(f"kept in {kept}")


def serving_rows(check: ServingCheck) -> list[list[str]]:
    """One row a figure: the original's and the pruned model's."""
    sides = (check.original, check.cut)
    rows = [
        ["log-probabilities differ from transformers' by", *map(_difference, sides)],
        ["greedy tokens", *map(_greedy, sides)],
        ["reading (tokens/s)", *(_figure(side.prompt_tokens_per_second) for side in sides)],
        ["writing (tokens/s)", *(_figure(side.decode_tokens_per_second) for side in sides)],
        ["peak memory of the process (MB)", *(_figure(side.peak_memory_bytes, 1e6) for side in sides)],
    ]
    return [row for row in rows if any(row[1:])]


def _difference(side: Side) -> str:
    if side.agreement is None:
        return "refused"
    return f"{max(side.agreement.prompt_difference, side.agreement.decoding_difference):.1e}"


def _greedy(side: Side) -> str:
    if side.agreement is None:
        return ""
    if worst := side.agreement.largest_gap:
        parted = len(side.agreement.divergences)
        return f"differ after {parted} of {len(side.greedy)} prompts, gap {worst.gap:.1e} at most"
    return "equal"


def _figure(value: float | None, scale: float = 1.0) -> str:
    return "" if value is None else f"{value / scale:,.1f}"


def _end(check: ServingCheck) -> None:
    """Let the command fail unless the cut is served as the original is.

    Raises:
        InputError: if the engine refuses the cut.
        ShapcutError: if the cut differs more than the original.
    """
    if check.verdict.refused:
        raise InputError(f"{check.engine}: {check.sentence}")
    if not check.verdict.good:
        raise ShapcutError(f"{check.engine}: {check.sentence}")
