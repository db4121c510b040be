"""The whole way: score, select, remove, post-process, verify, write, report."""

from pathlib import Path

from torch import nn

from shapcut.checkpoint import CheckpointReport, write_checkpoint
from shapcut.contributions import Contributions
from shapcut.demo_models import origin
from shapcut.errors import InputError
from shapcut.export_hints import export_hints
from shapcut.files import require_new_directory, require_outside
from shapcut.host import Host, checkpoint_formats
from shapcut.manifest import Manifest
from shapcut.measure import ModelMeasurement, measure, parameter_count
from shapcut.model_card import license_of, render_card
from shapcut.plan import RemovalPlan
from shapcut.postprocess import PostProcessor, StepContext
from shapcut.progress import Reporter, Silent
from shapcut.prune_result import PruneResult, finish_earlier, finished_earlier
from shapcut.recipe import Recipe
from shapcut.run import Run, open_run
from shapcut.scoring import Scoring, refuse_vetoed
from shapcut.session import Session, prepare, step_windows
from shapcut.sources import checkpoint_path
from shapcut.steps import PostProcessed, StepResults, run_steps

_VERIFIED_WINDOWS = 2


def default_run_directory(out: Path) -> Path:
    """Where a run is kept if the user names no place: beside the output.

    Raises:
        InputError: if nothing can be beside it.
    """
    place = out if out.name else out.absolute()
    if not place.name:
        raise InputError(f"--out {out} cannot become a directory of its own; name another one")
    return place.with_name(place.name + ".run")


def score(recipe: Recipe, run_directory: Path, host: Host, reporter: Reporter | None = None) -> Contributions:
    """Estimate contributions; the model is not changed.

    Raises:
        InputError: if the recipe cannot be carried out.
    """
    session = prepare(recipe, host, target=False)
    with open_run(run_directory) as run, Scoring(session, run, reporter or Silent()) as scoring:
        contributions = scoring.estimate()
        scoring.manifest.finish()
        host.manager.hook.shapcut_run_finished(run=run, hook=host.manager.hook)
        return contributions


def prune(
    recipe: Recipe,
    out: Path,
    host: Host,
    *,
    run_directory: Path | None = None,
    reporter: Reporter | None = None,
) -> PruneResult:
    """The whole pipeline; a killed run started again repeats no evaluation that was stored.

    Raises:
        InputError: if the recipe cannot be carried out.
        VerificationError: if the written checkpoint does not behave as the bypassed original.
    """
    reporter = reporter or Silent()
    require_one_target(recipe)
    directory = run_directory or default_run_directory(out)
    if finished := _finished(recipe, out, directory, host, reporter):
        return finished
    session = prepare(recipe, host, target=True, run_directory=directory)
    with open_run(directory) as run, Scoring(session, run, reporter) as scoring:
        plan = scoring.choose(scoring.estimate())
        result = carry_out(session, plan, out, run, reporter, command=scoring.manifest.command)
        scoring.manifest.finish(result=result.to_json())
        host.manager.hook.shapcut_run_finished(run=run, hook=host.manager.hook)
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
    """Carry out a plan made earlier.

    Raises:
        InputError: if the plan was made for another model, or cannot be carried out.
        VerificationError: if the written checkpoint does not behave as the bypassed original.
    """
    reporter = reporter or Silent()
    directory = run_directory or default_run_directory(out)
    if finished := _finished(recipe, out, directory, host, reporter):
        return finished
    session = prepare(recipe, host, target=True)
    _require_same_model(plan, session)
    refuse_vetoed(host, plan)
    with open_run(directory) as run:
        manifest = Manifest.start(run, session)
        plan.write(run.plan)
        result = carry_out(session, plan, out, run, reporter, command=manifest.command)
        manifest.finish(result=result.to_json())
        host.manager.hook.shapcut_run_finished(run=run, hook=host.manager.hook)
        return result


def _finished(
    recipe: Recipe, out: Path, directory: Path, host: Host, reporter: Reporter
) -> PruneResult | None:
    """The result of an earlier start that had only to say that it is done; that is made up for.

    Raises:
        InputError: if there is none and something else is at ``out``.
    """
    require_outside(directory, out)
    if finished_earlier(recipe, out, Run(directory)) is None:
        require_new_directory(out)
        return None
    with open_run(directory) as run:
        result = finished_earlier(recipe, out, run)
        if result is not None:
            reporter.say(f"{out} was finished by an earlier start")
            finish_earlier(result, run)
            host.manager.hook.shapcut_run_finished(run=run, hook=host.manager.hook)
        return result


def _require_same_model(plan: RemovalPlan, session: Session) -> None:
    players = len(plan.removed) + len(plan.kept)
    if players != session.game.n_players:
        raise InputError(
            f"the plan was made for a model of {players} players, "
            f"{session.loaded.source} has {session.game.n_players}"
        )
    found = session.game.model_fingerprint
    if plan.model_fingerprint and plan.model_fingerprint != found:
        raise InputError(
            f"the plan was made for another model: fingerprint {plan.model_fingerprint[:12]}, "
            f"{session.loaded.source} has {found[:12]}"
        )


def require_one_target(recipe: Recipe) -> None:
    """Refuse several cuts where one result is wanted.

    Raises:
        InputError: with what to use.
    """
    if len(recipe.target_labels()) > 1:
        raise InputError(f"several targets ({', '.join(recipe.target_labels())}) where one is wanted")


def carry_out(
    session: Session,
    plan: RemovalPlan,
    out: Path,
    run: Run,
    reporter: Reporter,
    *,
    command: str,
    before: ModelMeasurement | None = None,
    kept_as: Path | None = None,
) -> PruneResult:
    """Remove, post-process, verify and write; ``before`` is the original's measurement if it is known.

    The result is kept in ``kept_as`` (default the run's) before the checkpoint appears.

    Raises:
        InputError: if the adapter cannot remove this set.
        VerificationError: if the written checkpoint does not behave as the bypassed original.
    """
    adapter, model, recipe = session.adapter, session.game.model, session.recipe
    if objection := adapter.can_remove(model, plan.removed, plan.granularity):
        raise InputError(f"cannot remove {list(plan.removed)}: {objection}")
    before = before or measure_original(session, reporter)
    ids = session.held_out.input_ids[:_VERIFIED_WINDOWS].to(adapter.input_device(model))
    with adapter.bypass(model, plan.kept, plan.granularity):
        expected = adapter.logits(model, ids).cpu()
    hints = export_hints(adapter, model, plan, origin(session.loaded.source))
    steps = StepResults(run.steps, recipe.then, session.step_inputs(plan))
    model = adapter.remove(model, plan.removed, plan.granularity)
    session.host.manager.hook.shapcut_model_pruned(model=model, plan=plan)
    parameters = parameter_count(model)
    done: PostProcessed | None = None
    if session.parts.steps:
        done = _post_process(session, model, plan, steps, reporter)
        model = done.model
        expected = adapter.logits(model, ids.to(adapter.input_device(model))).cpu()
    with reporter.working("measuring the pruned model"):
        after = measure(adapter, model, session.held_out, seed=recipe.seed, reporter=reporter)
    quantized = any(step.gives_quantized for _, step in session.parts.steps)
    if quantized:
        after = after.model_copy(update={"parameters": parameters})  # packed words are not parameters
    card = render_card(
        name=out.name,
        base_model=origin(session.loaded.source),
        plan=plan,
        calibration=session.calibration,
        held_out=session.held_out,
        before=before.perplexity,
        after=after.perplexity,
        parameters_before=before.parameters,
        parameters_after=after.parameters,
        command=command,
        library=adapter.library,
        usage=adapter.usage(model),
        hints=hints,
        steps=recipe.then,
        quantized=quantized,
        license_fields=license_of(checkpoint_path(recipe.model, checkpoint_formats(session.host))),
    )

    def outcome(report: CheckpointReport) -> PruneResult:
        return PruneResult(
            plan, before, after.model_copy(update={"checkpoint_bytes": report.weight_bytes}), report
        )

    with reporter.working("writing and verifying the checkpoint"):
        written = write_checkpoint(
            adapter,
            model,
            session.loaded.tokenizer,
            out,
            plan=plan,
            recipe_text=recipe.to_yaml(),
            card=card,
            verify_ids=ids,
            expected_logits=expected,
            stored=done.checkpoint if done else None,
            tolerance=done.tolerance if done else None,
            before_it_appears=lambda report: outcome(report).write(kept_as or run.result),
        )
    steps.clear()
    return outcome(written)


def measure_original(session: Session, reporter: Reporter) -> ModelMeasurement:
    """The figures of the whole model."""
    recipe, adapter = session.recipe, session.adapter
    files = checkpoint_path(recipe.model, checkpoint_formats(session.host))
    with reporter.working("measuring the original"):
        return measure(
            adapter, session.game.model, session.held_out, files=files, seed=recipe.seed, reporter=reporter
        )


def _post_process(
    session: Session, model: nn.Module, plan: RemovalPlan, results: StepResults, reporter: Reporter
) -> PostProcessed:
    """Run the recipe's steps in their order, without those that an earlier start has finished."""

    def context(step: PostProcessor, directory: Path) -> StepContext:
        return StepContext(
            adapter=session.adapter,
            plan=plan,
            calibration=step_windows(session.recipe, session.loaded.tokenizer, step).input_ids,
            tokenizer=session.loaded.tokenizer,
            directory=directory,
            seed=session.recipe.seed,
            original=session.original,
            windows=session.windows,
            reporter=reporter,
        )

    return run_steps(
        session.parts.steps,
        model,
        results,
        adapter=session.adapter,
        context=context,
        hook=session.host.manager.hook,
        reporter=reporter,
    )
