"""Commands and options whose help is plain text under headings; rich takes too long to import."""

import logging
import sys
from typing import Any

import click

from shapcut.cli.completion import one_of
from shapcut.cli.exits import Stopped
from shapcut.support.errors import InputError
from shapcut.support.suggest import did_you_mean

LOG_LEVELS = ("debug", "info", "warning", "error")

_HELP = {"help_option_names": ["-h", "--help"], "max_content_width": 100}
_OTHERS = "Options"
_OUTPUT = "Files and output"


class Option(click.Option):
    """An option that the help lists under a heading.

    Args:
        panel: the heading.
        default_text: the default in words, where the value does not say it.
        attributes: of `click.Option`.
    """

    def __init__(
        self, *declarations: Any, panel: str = _OTHERS, default_text: str = "", **attributes: Any
    ) -> None:
        super().__init__(*declarations, **attributes)
        self.panel = panel
        given = attributes.get("default")
        self.default_text = default_text or ("" if given is None or self.is_flag else str(given))

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        """The option as it is written; its meaning, with the default or that it is required."""
        record = super().get_help_record(ctx)
        extra = f" [default: {self.default_text}]" if self.default_text else " [required]" * self.required
        return None if record is None else (record[0], record[1] + extra)

    def get_help_extra(self, ctx: click.Context) -> Any:
        """Nothing that click would add to the meaning: neither ranges nor types."""
        del ctx
        return {}


class Command(click.Command):
    """A command that takes ``--log-level`` and lists its options under headings.

    Args:
        panel: the heading under which ``shapcut --help`` lists it.
        attributes: of `click.Command`.
    """

    def __init__(self, *arguments: Any, panel: str = "Of plugins", **attributes: Any) -> None:
        super().__init__(*arguments, **attributes)
        self.context_settings = {**_HELP, **self.context_settings}
        self.params.append(_log_level_option())
        self.panel = panel

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options, heading by heading."""
        _write_options(self, ctx, formatter)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; an interruption leaves it as `Stopped`."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as stop:
            raise Stopped(stop) from stop


class Group(click.Group):
    """Commands that the help lists under headings, in the order in which they were added."""

    command_class = Command

    def __init__(self, *arguments: Any, **attributes: Any) -> None:
        super().__init__(*arguments, **attributes)
        self.context_settings = {**_HELP, **self.context_settings}
        self.params.append(_log_level_option())

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names, in the order in which the commands were added."""
        del ctx
        return list(self.commands)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options, then the commands."""
        _write_options(self, ctx, formatter)
        self.format_commands(ctx, formatter)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands, heading by heading."""
        del ctx
        rows = [
            (getattr(command, "panel", "Of plugins"), (name, command.get_short_help_str(limit=80)))
            for name, command in self.commands.items()
        ]
        _write_panels(rows, formatter)


def _write_options(command: click.Command, ctx: click.Context, formatter: click.HelpFormatter) -> None:
    options = [p for p in command.get_params(ctx) if isinstance(p, click.Option)]
    records = [(getattr(option, "panel", _OTHERS), option.get_help_record(ctx)) for option in options]
    rows = [(panel, record) for panel, record in records if record is not None]
    panels = list(dict.fromkeys(panel for panel, _ in rows if panel != _OTHERS))
    others = [row for row in rows if row[0] == _OTHERS]
    if panels and len(others) == 1:  # --help alone needs no heading of its own
        rows = [
            (_OUTPUT if panel == _OTHERS and _OUTPUT in panels else panel, record) for panel, record in rows
        ]
    _write_panels([row for row in rows if row[0] != _OTHERS], formatter)
    _write_panels([row for row in rows if row[0] == _OTHERS], formatter)


def _write_panels(rows: list[tuple[str, tuple[str, str]]], formatter: click.HelpFormatter) -> None:
    for panel in dict.fromkeys(panel for panel, _ in rows):
        with formatter.section(panel):
            formatter.write_dl([row for where, row in rows if where == panel])


def _log_level_option() -> Option:
    return Option(
        ["--log-level"],
        metavar="LEVEL",
        help=f"messages to print on stderr: {', '.join(LOG_LEVELS)}",
        panel=_OUTPUT,
        default_text="info",
        expose_value=False,
        callback=_set_log_level,
        shell_complete=one_of(lambda _: LOG_LEVELS),
    )


def _set_log_level(ctx: click.Context, option: click.Parameter, name: str | None) -> None:
    """Let shapcut's loggers write from this level on, one plain line per record, to stderr.

    The group's option sets the default, a command's wins over it.

    Raises:
        InputError: if there is no such level.
    """
    del option
    if name is None and ctx.parent is not None:
        return
    level = name or "info"
    if level not in LOG_LEVELS:
        raise InputError(f"--log-level {level}: {did_you_mean(level, LOG_LEVELS)}")
    logger = logging.getLogger("shapcut")
    logger.setLevel(level.upper())
    logger.propagate = False
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
    logger.addHandler(handler)
