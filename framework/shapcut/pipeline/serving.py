"""A check in an engine, beside the run that made the model: its recipe, its record, its report and card."""

from collections.abc import Sequence
from pathlib import Path

from shapcut.host.host import Host
from shapcut.pipeline.prune import default_run_directory
from shapcut.recipe.recipe import Recipe, make_recipe
from shapcut.serving.card import with_serving
from shapcut.serving.record import ServingCheck, ServingRecord
from shapcut.support.errors import InputError
from shapcut.support.files import write_text_atomically
from shapcut.support.run_directory import Run, open_run

_LARGEST_CARD = 2**20


def beside(out: Path, run: Path | None = None) -> Run | None:
    """The finished run that wrote ``out``, or None.

    Raises:
        InputError: if ``run`` is given and holds no run.
    """
    found = Run(run or default_run_directory(out))
    if found.manifest.is_file():
        return found
    if run is not None:
        raise InputError(f"--run {run} has no {found.manifest.name}, so it is not the directory of a run")
    return None


def made_from(out: Path, run: Path | None = None) -> Recipe | None:
    """The recipe that ``out`` was made from: its own, or the run's; None without either.

    Raises:
        InputError: if it is unreadable.
    """
    found = beside(out, run)
    places = [out / "recipe.yaml", *([found.recipe] if found else [])]
    return next((make_recipe({}, place) for place in places if place.is_file()), None)


def keep(check: ServingCheck, out: Path, run: Run | None, host: Host) -> Path | None:
    """Add a check to the run's record, to the report and to the model card.

    Returns:
        The record's path; None without a run.

    Raises:
        InputError: if the run is in use, or its record is damaged.
    """
    if run is None:
        return None
    with open_run(run.directory):
        record = ServingRecord.read(run.serving).adding(check)
        record.write(run.serving)
        _write_card(run.card if out.is_file() else out / "README.md", record.of(check.result))
        host.manager.hook.shapcut_serving_checked(run=run, hook=host.manager.hook)
    return run.serving


def _write_card(card: Path, checks: Sequence[ServingCheck]) -> None:
    """Show the checks in a model card of shapcut; any other is left alone."""
    if not card.is_file() or card.is_symlink() or card.stat().st_size > _LARGEST_CARD:
        return
    text = card.read_text(encoding="utf-8", errors="replace")
    if "\n- shapcut\n" in text.partition("\n---\n")[0] + "\n":
        write_text_atomically(card, with_serving(text, checks))
