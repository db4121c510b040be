"""Exit codes, and the exceptions that end a command."""

TRACEBACK = "SHAPCUT_TRACEBACK"
"""The environment variable that shows errors of shapcut itself as Python does."""


UNFORESEEN = "an error that shapcut did not foresee"


DONE, FAILED, BAD_INPUT, HUNG_UP, INTERRUPTED, TERMINATED = 0, 1, 2, 129, 130, 143


class Termination(KeyboardInterrupt):
    """SIGTERM or SIGHUP: whatever ends cleanly when a user interrupts it ends alike."""


class Stopped(Exception):  # noqa: N818 - no error
    """A command was interrupted. It is not a KeyboardInterrupt, which click turns into a silent exit.

    Attributes:
        stop: the interruption.
    """

    def __init__(self, stop: KeyboardInterrupt) -> None:
        super().__init__()
        self.stop = stop
