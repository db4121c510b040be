"""The commands, put together: the core's own and those of plugins."""

import functools
from typing import Annotated, Any

import typer

from shapcut import __version__
from shapcut.cli import commands
from shapcut.cli.help import HELP_NAMES, Command, Group
from shapcut.cli.shared_options import (
    LOG_LEVEL,
    like_every_command,
    mannered,
    panel_of_command,
    set_log_level,
)
from shapcut.host.host import Host, build_host


def build_app(*, skip_broken: bool = False) -> typer.Typer:
    """The command line of this installation.

    Args:
        skip_broken: go on without plugins that cannot be used.

    Raises:
        ShapcutError: if a plugin cannot be used and is not to be skipped.
    """
    host = build_host(skip_broken=skip_broken)
    app = typer.Typer(
        name="shapcut",
        cls=Group,
        context_settings=HELP_NAMES,
        help="Layer pruning of language models as a cooperative game.",
        no_args_is_help=True,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
    )
    app.callback(invoke_without_command=True)(_globals)
    for name, command in commands.COMMANDS.items():
        app.command(name)(_with_host(command, host))
    host.manager.hook.shapcut_register_commands(cli=app, hook=host.manager.hook)
    for registered in app.registered_commands:
        if registered.callback is not None:
            registered.callback = like_every_command(registered.callback)
        registered.rich_help_panel = panel_of_command(registered.name or "")
        registered.cls = Command
        registered.context_settings = HELP_NAMES
    return app


def _globals(
    version: Annotated[bool, typer.Option("--version", help="print the version", is_eager=True)] = False,
    skip_broken_plugins: Annotated[  # noqa: ARG001 - read before the command line is parsed
        bool, typer.Option("--skip-broken-plugins", help="go on without plugins that cannot be used")
    ] = False,
    log_level: Annotated[str | None, LOG_LEVEL] = None,
) -> None:
    set_log_level("info" if log_level is None else log_level)
    if version:
        typer.echo(f"shapcut {__version__}")
        raise typer.Exit


def _with_host(command: Any, host: Host) -> Any:
    """A command that takes the host as its first argument, as typer wants to see it: without."""
    signature = mannered(commands.signature_of(command), host)
    own = [p for p in signature.parameters.values() if p.name != "host"]

    @functools.wraps(command)
    def wrapper(**options: Any) -> None:
        command(host=host, **options)

    wrapper.__signature__ = signature.replace(parameters=own)  # type: ignore[attr-defined]
    wrapper.__annotations__ = {p.name: p.annotation for p in own}
    return wrapper
