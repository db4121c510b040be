"""The command line, waiting for a signal when a moment has come: MOMENT ARGUMENTS."""

import signal
import sys
from functools import partial
from typing import Any

from shapcut.cli import app
from shapcut.cli.main import main
from shapcut.host.hookspecs import hookimpl
from shapcut.host.host import build_host


class Announcer:
    """Prints the name of the awaited moment, and reads from stdin until a signal comes."""

    def __init__(self, moment: str) -> None:
        self.moment = moment

    def reached(self, moment: str) -> None:
        if moment == self.moment:
            print(moment, flush=True)  # noqa: T201 - the test reads it
            sys.stdin.readline()

    @hookimpl
    def shapcut_coalitions_evaluated(self, total: int) -> None:
        if total > 1:
            self.reached("scoring")

    @hookimpl
    def shapcut_model_pruned(self) -> None:
        self.reached("pruned")


def with_announcer(announcer: Announcer, **options: Any) -> Any:
    return build_host(extra=[announcer], **options)


if __name__ == "__main__":
    moment, *arguments = sys.argv[1:]
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job's children ignore it
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # so do children under nohup
    app.build_host = partial(with_announcer, Announcer(moment))
    main(arguments)
