"""Carry out a plan: remove, mend, verify, write."""

from pathlib import Path

from torch import nn

from shapcut.export.checkpoint import CheckpointReport, write_checkpoint
from shapcut.export.model_card import CardFacts, license_of, render_card
from shapcut.export.other_tools import export_hints
from shapcut.game.plan import RemovalPlan
from shapcut.host.host import checkpoint_formats
from shapcut.measurement.measure import measure
from shapcut.measurement.record import ModelMeasurement
from shapcut.measurement.sizes import parameter_count
from shapcut.models.demo import origin
from shapcut.models.source import checkpoint_path
from shapcut.pipeline.result import PruneResult
from shapcut.pipeline.session import Session
from shapcut.pipeline.windows import step_windows
from shapcut.steps.runner import PostProcessed, StepResults, run_steps
from shapcut.steps.step import PostProcessor, StepContext
from shapcut.support.errors import InputError
from shapcut.support.progress import Reporter
from shapcut.support.run_directory import Run

_VERIFIED_WINDOWS = 2


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
        after = _measured(session, model, reporter)
    quantized = any(step.gives_quantized for _, step in session.parts.steps)
    if quantized:
        after = after.model_copy(update={"parameters": parameters})  # packed words are not parameters
    facts = CardFacts(
        name=out.name,
        base_model=origin(session.loaded.source),
        plan=plan,
        calibration=session.calibration,
        held_out=session.held_out,
        before=before,
        after=after,
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
            card=render_card(facts),
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
    files = checkpoint_path(session.recipe.model, checkpoint_formats(session.host))
    with reporter.working("measuring the original"):
        return _measured(session, session.game.model, reporter, files)


def _measured(
    session: Session, model: nn.Module, reporter: Reporter, files: Path | None = None
) -> ModelMeasurement:
    found = measure(
        session.adapter,
        model,
        session.held_out,
        files=files,
        seed=session.recipe.seed,
        reporter=reporter,
    )
    for note in found.notes:
        reporter.say(note)
    return found


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
