"""``shapcut push``, and ``--push-to-hub`` of the commands that write a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from shapcut.cli.help import Command
from shapcut.cli.options import A_PATH, OUTPUT, option
from shapcut.support.errors import InputError, ShapcutError

if TYPE_CHECKING:
    from shapcut.export.hub import HubTarget

push_to_hub = option(
    "--push-to-hub",
    metavar="NAME",
    help="also publish the result on the hub, as the new private model OWNER/MODEL",
    panel=OUTPUT,
)


def require_pushable(name: str | None, targets: int) -> HubTarget | None:
    """Check ``--push-to-hub`` before any work; None if it is not given.

    Raises:
        InputError: if the result could not be pushed.
    """
    from shapcut.export.hub import hub_target

    if name is None:
        return None
    if targets > 1:
        raise InputError(
            "--push-to-hub needs one target; give one, or push each directory with: shapcut push"
        )
    return hub_target(name)


def pushed(out: Path, run: Path | None, target: HubTarget | None) -> None:
    """Publish a result and say where it is; nothing without a target."""
    from shapcut.cli.output import reporter
    from shapcut.export.hub import push
    from shapcut.pipeline.prune import default_run_directory

    if target is None:
        return
    try:
        reporter().say(f"published at {push(out, run or default_run_directory(out), target)}")
    except ShapcutError as error:
        raise ShapcutError(f"{error}; it is in {out}, and `shapcut push` publishes it later") from error


@click.command("push", cls=Command, panel="Prune")
@click.argument("out", metavar="OUT", type=A_PATH, help="a pruned checkpoint's directory or .gguf file")
@click.argument("name", metavar="NAME")
@option(
    "--run",
    type=A_PATH,
    metavar="DIR",
    help="the run's directory, which has a .gguf file's card [default: OUT.run]",
    panel=OUTPUT,
)
@option("--public", is_flag=True, help="let everyone see a new model", panel=OUTPUT)
@option("--update", is_flag=True, help="add a commit to a model that exists already", panel=OUTPUT)
def push_model(*, out: Path, name: str, run: Path | None, public: bool, update: bool) -> None:
    """Publish what prune or apply wrote on the Hugging Face Hub."""
    from shapcut.cli import tables
    from shapcut.export.hub import hub_target, published_files, push
    from shapcut.pipeline.prune import default_run_directory

    directory = run or default_run_directory(out)
    published_files(out, directory)
    tables.say(f"published at {push(out, directory, hub_target(name, private=not public, update=update))}")
