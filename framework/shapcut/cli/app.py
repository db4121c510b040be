"""The commands, put together: the core's own and those of plugins."""

from typing import Any

import click

from shapcut import __version__
from shapcut.cli.commands import COMMANDS
from shapcut.cli.help import Group, Option
from shapcut.host.host import build_host


def build_app(*, skip_broken: bool = False) -> click.Group:
    """The command line of this installation; its context object is the plugin host.

    Args:
        skip_broken: go on without plugins that cannot be used.

    Raises:
        ShapcutError: if a plugin cannot be used and is not to be skipped.
    """
    host = build_host(skip_broken=skip_broken)
    app = Group(
        "shapcut",
        help="Layer pruning of language models as a cooperative game.",
        params=[_version(), _skip_broken_plugins()],
        context_settings={"obj": host},
    )
    for command in COMMANDS:
        app.add_command(command)
    host.manager.hook.shapcut_register_commands(cli=app, hook=host.manager.hook)
    return app


def _version() -> Option:
    return Option(
        ["--version"],
        is_flag=True,
        is_eager=True,
        expose_value=False,
        callback=_print_version,
        help="print the version",
    )


def _print_version(ctx: click.Context, option: click.Parameter, wanted: bool) -> Any:
    del option
    if wanted:
        click.echo(f"shapcut {__version__}")
        ctx.exit()


def _skip_broken_plugins() -> Option:
    """Read before the command line is parsed, as plugins add to it; here it is only named."""
    return Option(
        ["--skip-broken-plugins"],
        is_flag=True,
        expose_value=False,
        help="go on without plugins that cannot be used",
    )
