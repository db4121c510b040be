"""The command ``report``."""

from pathlib import Path

import click
import pluggy

_A_PATH = click.Path(path_type=Path)


def add_report_command(cli: click.Group, hook: pluggy.HookRelay) -> None:
    """Add ``report`` to the command line; ``hook`` asks the other plugins for their sections."""

    @cli.command("report", panel="Judge")
    @click.argument("directory", metavar="DIR", type=_A_PATH)
    @click.option(
        "--baselines",
        type=_A_PATH,
        metavar="DIR",
        help="directory of shapcut compare: show its methods beside the run's own cuts",
    )
    def report(directory: Path, baselines: Path | None) -> None:
        """Write DIR/report.html: what was removed and why, and what it cost.

        For the directory of a comparison, write DIR/comparison.html.
        """
        from shapcut.contracts import InputError, Run  # noqa: PLC0415 - loaded only when the command runs
        from shapcut_plugins.report.comparison_page import write_comparison  # noqa: PLC0415
        from shapcut_plugins.report.report import write_report  # noqa: PLC0415
        from shapcut_plugins.report.run_data import read_run  # noqa: PLC0415

        run = Run(directory)
        if run.comparison.is_file():
            if baselines is not None:
                raise InputError(f"{directory} is a comparison itself; --baselines is for a run")
            write_comparison(run)
            click.echo(str(run.comparison_page))
            return
        read_run(run)  # refuses anything but a run before a plugin sees it
        others = None if baselines is None else Run(baselines)
        write_report(run, hook.shapcut_report_sections(run=run), baselines=others)
        click.echo(str(run.report))
