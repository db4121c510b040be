"""Finish a run that was killed after its checkpoint was complete."""

from pathlib import Path

from shapcut.host.host import Host
from shapcut.pipeline.manifest import Manifest, finish_run
from shapcut.pipeline.output import is_gguf_output, require_output
from shapcut.pipeline.result import PruneResult, read_result
from shapcut.recipe.recipe import Recipe
from shapcut.steps.runner import clear_results
from shapcut.support.errors import InputError
from shapcut.support.files import require_outside
from shapcut.support.plain_json import read_json
from shapcut.support.progress import Reporter
from shapcut.support.run_directory import Run, open_run, require_run_directory


def resume_finished(
    recipe: Recipe, out: Path, directory: Path, host: Host, reporter: Reporter
) -> PruneResult | None:
    """Finish a run that was killed after its checkpoint was complete: clear the steps' weights and report.

    Returns:
        The run's result, or None if there is no such run.

    Raises:
        InputError: if ``out`` holds anything else.
    """
    require_outside(directory, out)
    if finished_earlier(recipe, out, Run(directory)) is None:
        require_output(recipe, out)
        require_run_directory(directory)
        return None
    with open_run(directory) as run:
        result = finished_earlier(recipe, out, run)
        if result is not None:
            reporter.say(f"{out} was finished by an earlier start")
            clear_results(run.steps)
            finish_run(host, run, Manifest.reopen(run), result=result.to_json())
        return result


def finished_earlier(recipe: Recipe, out: Path, run: Run) -> PruneResult | None:
    """The result of an earlier start of the same run, killed after its checkpoint was complete, or None.

    Args:
        recipe: the recipe.
        out: the checkpoint's directory or the GGUF file, which may not exist.
        run: the run directory; the run is unfinished if its manifest says so or it has no report.
    """
    try:
        result = read_result(run.result)
        place = run.directory if is_gguf_output(out) and out.is_file() else out
        written = (place / "recipe.yaml").read_text(encoding="utf-8")
        same_plan = read_json(place / "plan.json") == result.to_json()["plan"]
        status = read_json(run.manifest)["status"]
    except (InputError, OSError, ValueError, KeyError, TypeError):
        return None
    here = result.checkpoint.directory.absolute() == out.absolute()
    unfinished = status != "done" or not run.report.exists()  # the report is written last
    asked = [recipe]
    if "finalist_samples" not in recipe.model_fields_set:  # a short text has no finals
        asked.append(recipe.model_copy(update={"finalist_samples": 0}))
    same_recipe = written in [each.to_yaml() for each in asked]
    return result if same_recipe and same_plan and unfinished and here else None
