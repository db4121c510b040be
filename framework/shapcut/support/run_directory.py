"""The run directory: keeps a run's evaluations and results, from which a second start resumes."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from shapcut.support.child import CHILD_LOCK, has_child
from shapcut.support.errors import InputError
from shapcut.support.files import require_writable, write_text_atomically

_MARKER, _LOCK = ".shapcut-run", ".lock"
_MARKED = "A run directory of shapcut, which replaces and deletes files in it.\n"


@dataclass(frozen=True, slots=True)
class Run:
    """The files of one run.

    Attributes:
        directory: the run directory.
    """

    directory: Path

    @property
    def manifest(self) -> Path:
        """Versions, command, recipe, fingerprints, seeds, timings, counts."""
        return self.directory / "manifest.json"

    @property
    def recipe(self) -> Path:
        """The recipe, with presets and defaults written out."""
        return self.directory / "recipe.yaml"

    @property
    def evaluations(self) -> Path:
        """Every measured coalition and its value."""
        return self.directory / "evaluations.sqlite"

    @property
    def contributions(self) -> Path:
        """Contribution and standard error of each player, fidelity of the surrogate."""
        return self.directory / "contributions.json"

    @property
    def plan(self) -> Path:
        """The removal plan."""
        return self.directory / "plan.json"

    @property
    def comparison(self) -> Path:
        """The removal and cost of each method in a comparison."""
        return self.directory / "comparison.json"

    @property
    def rows(self) -> Path:
        """Every finished comparison row in this directory, across comparisons."""
        return self.directory / "rows.json"

    @property
    def comparison_page(self) -> Path:
        """The comparison as one self-contained HTML file."""
        return self.directory / "comparison.html"

    @property
    def latencies(self) -> Path:
        """The latency of each player, if a target needed it."""
        return self.directory / "latencies.json"

    def plan_of(self, label: str) -> Path:
        """The plan of one of several cuts."""
        return self.directory / "plans" / f"{label}.json"

    @property
    def result(self) -> Path:
        """The result of the run, written right before the checkpoint appears."""
        return self.directory / "result.json"

    def result_of(self, label: str) -> Path:
        """The result of one of several cuts, likewise."""
        return self.directory / "results" / f"{label}.json"

    @property
    def card(self) -> Path:
        """The model card of a GGUF file; a checkpoint's directory has its own."""
        return self.directory / "README.md"

    @property
    def steps(self) -> Path:
        """Work files, results and reports of post-pruning steps; no weights once the run is finished."""
        return self.directory / "steps"

    @property
    def serving(self) -> Path:
        """How inference engines run the result, one check for each engine."""
        return self.directory / "serve.json"

    @property
    def live(self) -> Path:
        """A page that shows how far the run is, while it goes."""
        return self.directory / "live.html"

    @property
    def report(self) -> Path:
        """The report, one self-contained HTML file."""
        return self.directory / "report.html"


def require_run_directory(directory: Path) -> None:
    """Check that a run can be kept in ``directory``: it is absent, empty, or marked as a run directory.

    Only in a marked directory are files replaced and deleted, and never through a link.

    Raises:
        InputError: otherwise.
    """
    require_writable(directory, "--run")
    if not directory.exists():
        return
    found = sorted(directory.iterdir())
    if links := [path for path in found if path.is_symlink()]:
        raise InputError(f"--run {directory}: {links[0].name} is a link; choose a directory without links")
    if busy := [
        lock.parent for lock in directory.glob(f"steps/*/work/{CHILD_LOCK}") if has_child(lock.parent)
    ]:
        raise InputError(
            f"--run {directory} is in use by a process of an earlier start, in "
            f"{busy[0].relative_to(directory)}; wait for it or end it"
        )
    if not (directory / _MARKER).is_file():
        others = [
            path.name for path in found if path.name != _LOCK and not path.name.startswith(f".{_MARKER}.")
        ]
        if others:
            raise InputError(
                f"--run {directory} is not a run directory (it holds {others[0]}); choose a new one"
            )


@contextmanager
def open_run(directory: Path) -> Iterator[Run]:
    """Create or reopen a run directory and lock it against other processes.

    An interruption gets a note with the directory.

    Raises:
        InputError: if it cannot be written or another process holds it.
    """
    require_run_directory(directory)
    directory.mkdir(parents=True, exist_ok=True)
    lock = FileLock(directory / _LOCK, timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise InputError(f"--run {directory} is in use by another process") from error
    except OSError as error:
        raise InputError(f"--run {directory} cannot be written: {error.strerror}") from error
    try:
        require_run_directory(directory)
        write_text_atomically(directory / _MARKER, _MARKED)
        yield Run(directory)
    except KeyboardInterrupt as stop:
        stop.add_note(f"what was measured is kept in {directory}")
        raise
    finally:
        lock.release()
