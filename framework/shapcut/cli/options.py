"""The options that several commands take; those of a recipe are made from its fields.

Their values stay text: `shapcut.recipe.recipe` is the one place that says what a value may be.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import click

from shapcut.cli.completion import Complete, file_or, methods, models, offered, one_of, texts
from shapcut.cli.help import Option
from shapcut.recipe.fields import FIELDS, MODEL, RecipeField

F = TypeVar("F", bound=Callable[..., Any])

A_PATH = click.Path(path_type=Path)
OUTPUT = "Files and output"

option = partial(click.option, cls=Option)

model_argument = click.argument("model", metavar="MODEL", help=MODEL, shell_complete=file_or(models))
recipe_model = click.argument(
    "model",
    metavar="[MODEL]",
    required=False,
    help=f"{MODEL} [default: the recipe's]",
    shell_complete=file_or(models),
)
out = option(
    "--out",
    type=A_PATH,
    metavar="DIR",
    required=True,
    help="new directory for the checkpoint, or FILE.gguf to cut a GGUF file",
    panel=OUTPUT,
)
run = option(
    "--run",
    type=A_PATH,
    metavar="DIR",
    help="directory that keeps what was evaluated; a second start resumes",
    panel=OUTPUT,
)
recipe = option(
    "--recipe", type=A_PATH, metavar="FILE", help="YAML recipe; options win over it", panel=OUTPUT
)
as_json = option("--json", "as_json", is_flag=True, help="print the result as JSON", panel=OUTPUT)
dry_run = option("--dry-run", is_flag=True, help="print what would be done and what it costs", panel=OUTPUT)

_COMPLETIONS: dict[str, Complete] = {
    "estimator": offered("estimators"),
    "selector": offered("selectors"),
    "sampler": offered("samplers"),
    "utility": offered("utilities"),
    "executor": offered("executors"),
    "then": offered("postprocessors"),
    "preset": one_of(methods),
    "calibration": file_or(texts),
    "judge_on": file_or(texts),
}


class RecipeOption(Option):
    """The option of a recipe's field; its value is None if it is not given.

    Args:
        declarations: its names.
        field: of the recipe.
        attributes: that differ from the field's.
    """

    def __init__(self, declarations: Sequence[str], *, field: RecipeField, **attributes: Any) -> None:
        of_field: dict[str, Any] = {
            "help": field.meaning,
            "metavar": field.metavar or None,
            "panel": field.group,
            "is_flag": field.is_switch,
            "default": None,
            "default_text": field.default_text or _written(field.default),
            "multiple": field.repeatable,
            "callback": _given,
            "shell_complete": _completion(field),
        }
        super().__init__(declarations, **(of_field | attributes))
        self.field = field


def recipe_option(name: str, *declarations: str, **attributes: Any) -> Callable[[F], F]:
    """Give a command the option of one field of the recipe.

    Args:
        name: of the field.
        declarations: the option's names, if they are not the field's.
        attributes: of `RecipeOption` that differ from the field's.
    """
    field = FIELDS[name]
    names = declarations or (field.option, field.name)
    return click.option(*names, cls=RecipeOption, field=field, **attributes)


def recipe_options(names: Iterable[str] = FIELDS) -> Callable[[F], F]:
    """Give a command the options of these fields of the recipe."""

    def decorate(command: F) -> F:
        for name in reversed(list(names)):
            command = recipe_option(name)(command)
        return command

    return decorate


def _given(ctx: click.Context, parameter: click.Parameter, value: Any) -> Any:
    """None for a repeatable option that is not given."""
    del ctx, parameter
    return None if value == () else value


def _written(default: Any) -> str:
    """A default on the command line; nothing for what is off or empty."""
    return "" if default in (None, ()) or default is False else str(default)


def _completion(field: RecipeField) -> Complete | None:
    return one_of(lambda _: field.choices) if field.choices else _COMPLETIONS.get(field.name)
