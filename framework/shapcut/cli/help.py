"""Help as plain text under headings; rich's would take longer to import than shapcut."""

import re
from typing import Any

from typer.core import TyperCommand, TyperGroup

HELP_NAMES = {"help_option_names": ["-h", "--help"], "max_content_width": 100}
"""Settings of every command."""

_TYPE = re.compile(r" <[^<>]*>$")
"""The type that typer adds to a placeholder, as in ``MODEL <str>``."""


class Command(TyperCommand):
    """A command whose options stand under the headings of their panels."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the options, panel by panel; those without one come last."""
        _write(formatter, self.get_params(ctx), ctx)


class Group(TyperGroup):
    """A group whose commands stand under the headings of their panels."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the options, then the commands."""
        _write(formatter, self.get_params(ctx), ctx)
        self.format_commands(ctx, formatter)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the commands, panel by panel."""
        panels: dict[str, list[tuple[str, str]]] = {}
        for name in self.list_commands(ctx):
            command: Any = self.get_command(ctx, name)
            panel = getattr(command, "rich_help_panel", None) or "Commands"
            panels.setdefault(str(panel), []).append((name, command.get_short_help_str(limit=80)))
        for panel, rows in panels.items():
            with formatter.section(panel):
                formatter.write_dl(rows)


def _write(formatter: Any, parameters: list[Any], ctx: Any) -> None:
    panels: dict[str, list[tuple[str, str]]] = {}
    for parameter in parameters:
        argument = getattr(parameter, "param_type_name", "") == "argument"
        panel = getattr(parameter, "rich_help_panel", None) or ("Arguments" if argument else "Options")
        record = parameter.get_help_record(ctx)
        if record is not None:
            name, text = record
            panels.setdefault(str(panel), []).append((_TYPE.sub("", name), text))
    others = panels.pop("Options", None)
    for panel, rows in [*panels.items(), *([("Options", others)] if others else [])]:
        with formatter.section(panel):
            formatter.write_dl(rows)
