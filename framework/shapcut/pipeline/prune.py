"""The pipeline of `score`, `prune` and `apply`."""

from pathlib import Path

from shapcut.game.contributions import Contributions
from shapcut.game.plan import RemovalPlan
from shapcut.host.host import Host
from shapcut.pipeline.cut import carry_out
from shapcut.pipeline.manifest import Manifest, finish_run
from shapcut.pipeline.output import is_gguf_output, require_gguf_cut
from shapcut.pipeline.result import PruneResult
from shapcut.pipeline.resume import resume_finished
from shapcut.pipeline.score import Scoring, refuse_vetoed
from shapcut.pipeline.session import Session, prepare
from shapcut.recipe.recipe import Recipe
from shapcut.support.errors import InputError
from shapcut.support.live_page import live_page
from shapcut.support.progress import Reporter, Silent
from shapcut.support.run_directory import open_run, require_run_directory


def default_run_directory(out: Path) -> Path:
    """The default run directory, beside the output.

    Raises:
        InputError: if the output has no directory beside it.
    """
    place = out if out.name else out.absolute()
    if not place.name:
        raise InputError(f"--out {out} cannot become a directory of its own; choose another one")
    return place.with_name(place.name + ".run")


def score(recipe: Recipe, run_directory: Path, host: Host, reporter: Reporter | None = None) -> Contributions:
    """Estimate contributions; the model is not changed.

    Raises:
        InputError: if the recipe cannot be carried out.
    """
    require_run_directory(run_directory)
    session = prepare(recipe, host, target=False, reporter=reporter)
    with (
        open_run(run_directory) as run,
        live_page(run.live, reporter or Silent(), f"scoring {recipe.model}") as page,
        Scoring(session, run, page) as scoring,
    ):
        contributions = scoring.estimate()
        finish_run(host, run, scoring.manifest)
        return contributions


def prune(
    recipe: Recipe,
    out: Path,
    host: Host,
    *,
    run_directory: Path | None = None,
    reporter: Reporter | None = None,
) -> PruneResult:
    """Score, select, remove, run the steps, verify, write and report.

    A resumed run repeats no stored evaluation.

    Raises:
        InputError: if the recipe cannot be carried out.
        VerificationError: if the written checkpoint does not behave as the bypassed original.
    """
    require_one_target(recipe)
    directory, reporter = run_directory or default_run_directory(out), reporter or Silent()
    finished = resume_finished(recipe, out, directory, host, reporter)
    return finished or _prune(recipe, out, host, directory, reporter)


def _prune(recipe: Recipe, out: Path, host: Host, directory: Path, reporter: Reporter) -> PruneResult:
    session = prepare(recipe, host, target=True, run_directory=directory, reporter=reporter)
    with (
        open_run(directory) as run,
        live_page(run.live, reporter, f"pruning {recipe.model}") as page,
        Scoring(session, run, page) as scoring,
    ):
        contributions = scoring.estimate()
        plan = scoring.choose(contributions)
        result = carry_out(session, plan, out, run, page, command=scoring.manifest.command)
        finish_run(host, run, scoring.manifest, result=result.to_json())
        return result


def apply_plan(
    recipe: Recipe,
    plan: RemovalPlan,
    out: Path,
    host: Host,
    *,
    run_directory: Path | None = None,
    reporter: Reporter | None = None,
) -> PruneResult:
    """Apply an existing plan.

    Raises:
        InputError: if the plan was made for another model, or cannot be applied.
        VerificationError: if the written checkpoint does not behave as the bypassed original.
    """
    directory, reporter = run_directory or default_run_directory(out), reporter or Silent()
    if finished := resume_finished(recipe, out, directory, host, reporter):
        return finished
    if is_gguf_output(out):
        require_gguf_cut(Path(recipe.model), plan.kept)
    session = prepare(recipe, host, target=recipe.has_target, reporter=reporter)
    _require_same_model(plan, session, reporter)
    plan = plan.model_copy(update={"form": session.game.form_of(plan.removed) or plan.form})
    refuse_vetoed(host, plan)
    with open_run(directory) as run:
        manifest = Manifest.start(run, session)
        with manifest.noting_failure():
            plan.write(run.plan)
            result = carry_out(session, plan, out, run, reporter, command=manifest.command)
            finish_run(host, run, manifest, result=result.to_json())
            return result


def _require_same_model(plan: RemovalPlan, session: Session, reporter: Reporter) -> None:
    players, source = len(plan.removed) + len(plan.kept), session.opened.source_name
    if players != session.game.n_players:
        raise InputError(
            f"the plan is for a model with {players} players, but {source} has {session.game.n_players}"
        )
    found = session.game.model_fingerprint
    if not plan.model_fingerprint:
        reporter.say(f"the plan names no model (model_fingerprint); it is taken to be for {source}")
    elif plan.model_fingerprint != found:
        raise InputError(
            f"the plan is for another model: its fingerprint is {plan.model_fingerprint[:12]}, "
            f"that of {source} is {found[:12]}"
        )


def require_one_target(recipe: Recipe) -> None:
    """Refuse a recipe with several targets.

    Raises:
        InputError: with the targets.
    """
    if len(recipe.target_labels()) > 1:
        raise InputError(f"expected one target, got {', '.join(recipe.target_labels())}")
