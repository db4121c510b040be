"""What all commands share: panels in their help, names that a shell completes, and how much they say."""

import functools
import glob
import inspect
import logging
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

import typer
from typer.models import ArgumentInfo, OptionInfo

from shapcut.cli.exits import Stopped
from shapcut.data.text import BUILTIN, HUB_PREFIX
from shapcut.host.host import Host
from shapcut.host.registry import Registry
from shapcut.models.demo import DEMO_MODELS, DEMO_PREFIX
from shapcut.recipe.methods import METHODS
from shapcut.support.errors import InputError
from shapcut.support.suggest import did_you_mean

LOG_LEVELS = ("debug", "info", "warning", "error")

_COMMAND_PANELS = {
    "See what there is": ("inspect", "adapters", "plugins", "check-adapter"),
    "Prune": ("score", "prune", "apply", "demo"),
    "Judge": ("evaluate", "compare", "report"),
}
_OPTION_PANELS = {
    "Target": ("remove", "ratio", "ratios", "parameters", "memory", "speedup", "nested", "granularity"),
    "Method": (
        *("preset", "methods", "estimator", "selector", "sampler", "utility", "budget"),
        *("finalist_samples", "mend_finalists", "then", "plan"),
    ),
    "Text": (
        *("calibration", "text", "samples", "sequence_length", "window", "stride"),
        *("held_out", "held_out_length", "held_out_samples"),
    ),
    "Generation": ("prompt_tokens", "new_tokens", "repeats", "cache_lengths"),
    "Tasks": ("task_names", "task_path", "limit", "num_fewshot"),
    "Machine": (
        *("device", "executor", "dtype", "memory_budget", "compile", "offload", "trust_remote_code"),
        *("revision", "text_only"),
    ),
    "Files and output": ("out", "run", "recipe", "as_json", "dry_run"),
}
_PANEL_OF_COMMAND = {name: panel for panel, names in _COMMAND_PANELS.items() for name in names}
_PANEL_OF_OPTION = {name: panel for panel, names in _OPTION_PANELS.items() for name in names}

_METAVARS = {
    **dict.fromkeys(("out", "run", "directory", "baselines"), "DIR"),
    **dict.fromkeys(("recipe", "plan"), "FILE"),
    **dict.fromkeys(("estimator", "selector", "sampler", "utility", "executor"), "NAME[:key=value,...]"),
    **dict.fromkeys(("preset", "granularity", "device", "dtype", "compile", "offload"), "NAME"),
    **dict.fromkeys(("prompt_tokens", "new_tokens", "repeats", "batch_size", "limit", "num_fewshot"), "N"),
    **dict.fromkeys(("remove", "ratios", "seeds"), "N,N"),
    "then": "STEP[:key=value,...]",
    "calibration": "SOURCE",
    "methods": "NAME,NAME",
    "seed": "N",
}
"""Placeholders of option values whose declaration names none."""

Complete = Callable[[str], Iterable[str]]

LOG_LEVEL = typer.Option(
    "--log-level",
    metavar="LEVEL",
    help=f"how much is said on stderr: {', '.join(LOG_LEVELS)} [default: info]",
    rich_help_panel="Files and output",
    autocompletion=lambda incomplete: [name for name in LOG_LEVELS if name.startswith(incomplete)],
)


def like_every_command(command: Callable[..., Any]) -> Callable[..., Any]:
    """The same command, which also takes ``--log-level`` and leaves by `Stopped` when it is told to stop."""
    signature = inspect.signature(command, eval_str=True)
    level = inspect.Parameter(
        "log_level", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[str | None, LOG_LEVEL]
    )

    @functools.wraps(command)
    def wrapper(*, log_level: str | None = None, **options: Any) -> Any:
        if log_level is not None:
            set_log_level(log_level)
        try:
            return command(**options)
        except KeyboardInterrupt as stop:
            raise Stopped(stop) from stop

    parameters = [*signature.parameters.values(), level]
    wrapper.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    wrapper.__annotations__ = {p.name: p.annotation for p in parameters}
    return wrapper


def set_log_level(name: str) -> None:
    """Let shapcut's loggers speak from this level on, one plain line a record on stderr.

    Raises:
        InputError: if there is no such level.
    """
    if name not in LOG_LEVELS:
        raise InputError(f"--log-level {name}: {did_you_mean(name, LOG_LEVELS)}")
    logger = logging.getLogger("shapcut")
    logger.setLevel(name.upper())
    logger.propagate = False
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
    logger.addHandler(handler)


def panel_of_command(name: str) -> str:
    """Under which heading the help lists a command."""
    return _PANEL_OF_COMMAND.get(name, "Of plugins")


def mannered(signature: inspect.Signature, host: Host) -> inspect.Signature:
    """A command's signature, its options in panels and completed where that is cheap."""
    completions = _completions(host)
    return signature.replace(
        parameters=[_mannered(parameter, completions) for parameter in signature.parameters.values()]
    )


def _mannered(parameter: inspect.Parameter, completions: Mapping[str, Complete]) -> inspect.Parameter:
    if get_origin(parameter.annotation) is not Annotated:
        return parameter
    kind, *extra = get_args(parameter.annotation)
    extra = [_with_manners(part, parameter.name, completions) for part in extra]
    return parameter.replace(annotation=Annotated[(kind, *extra)])


def _with_manners(part: Any, name: str, completions: Mapping[str, Complete]) -> Any:
    if not isinstance(part, (OptionInfo, ArgumentInfo)):
        return part
    changed = type(part).__new__(type(part))
    changed.__dict__.update(vars(part))
    if isinstance(part, OptionInfo):
        changed.rich_help_panel = part.rich_help_panel or _PANEL_OF_OPTION.get(name)
        changed.metavar = part.metavar or _METAVARS.get(name)
    changed.autocompletion = part.autocompletion or completions.get(name)
    return changed


def _completions(host: Host) -> dict[str, Complete]:
    """What a shell may put in place of an unfinished word, by parameter."""
    lists: dict[str, Registry[Any]] = {
        "estimator": host.estimators,
        "selector": host.selectors,
        "sampler": host.samplers,
        "utility": host.utilities,
        "executor": host.executors,
        "then": host.postprocessors,
    }
    named: dict[str, Complete] = {
        name: _beginning([entry.name for entry in registry]) for name, registry in lists.items()
    }
    return named | {
        "name": _beginning([entry.name for entry in host.adapters]),
        "preset": _beginning(METHODS),
        "methods": _last_of(METHODS),
        "granularity": _beginning(["block", "sublayer"]),
        "dtype": _beginning(["auto", "float32", "bfloat16", "float16"]),
        "compile": _beginning(["auto", "on", "off"]),
        "offload": _beginning(["off", "auto", "disk"]),
        "calibration": _paths_or([BUILTIN, HUB_PREFIX]),
        "text": _paths_or([BUILTIN, HUB_PREFIX]),
        "model": _paths_or([f"{DEMO_PREFIX}{name}" for name in DEMO_MODELS]),
        "against": _paths_or([f"{DEMO_PREFIX}{name}" for name in DEMO_MODELS]),
    }


def _beginning(names: Iterable[str]) -> Complete:
    known = sorted(set(names))

    def complete(incomplete: str) -> list[str]:
        return [name for name in known if name.startswith(incomplete)]

    return complete


def _last_of(names: Iterable[str]) -> Complete:
    """Names with commas between: the last one is completed."""
    known = sorted(set(names))

    def complete(incomplete: str) -> list[str]:
        before, comma, last = incomplete.rpartition(",")
        return [f"{before}{comma}{name}" for name in known if name.startswith(last)]

    return complete


def _paths_or(names: Iterable[str]) -> Complete:
    """Some names, or whatever is in the directory that the word names so far."""
    known = list(names)

    def complete(incomplete: str) -> list[str]:
        directory, slash, begun = incomplete.rpartition("/")
        here = Path(directory + slash or ".")
        found = sorted(here.glob(f"{glob.escape(begun)}*")) if here.is_dir() else []
        paths = [f"{directory}{slash}{path.name}" + "/" * path.is_dir() for path in found]
        return [name for name in known if name.startswith(incomplete)] + paths

    return complete
