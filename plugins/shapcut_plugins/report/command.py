"""The command ``report``."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import pluggy
import typer


def report_command(hook: pluggy.HookRelay) -> Callable[..., None]:
    """The command ``report``; ``hook`` asks the other plugins for their sections."""

    def report(
        directory: Annotated[Path, typer.Argument(metavar="DIR", help="the directory of a run, see --run")],
        baselines: Annotated[
            Path | None,
            typer.Option(help="a directory of shapcut compare: its methods beside the run's own cuts"),
        ] = None,
    ) -> None:
        """Write DIR/report.html: the removed players, the reasons, the effect and the cost.

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
            typer.echo(str(run.comparison_page))
            return
        read_run(run)  # refuses anything but a run before a plugin sees it
        others = None if baselines is None else Run(baselines)
        write_report(run, hook.shapcut_report_sections(run=run), baselines=others)
        typer.echo(str(run.report))

    return report
