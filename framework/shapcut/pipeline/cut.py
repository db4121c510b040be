"""Apply a plan: remove players, run the steps, measure, write and verify."""

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from shapcut.export.checkpoint import CheckpointReport, write_checkpoint
from shapcut.export.gguf_checkpoint import write_gguf
from shapcut.export.gguf_rules import followed_metadata
from shapcut.export.model_card import CardFacts, license_in_gguf, license_of, render_card
from shapcut.export.other_tools import export_hints
from shapcut.game.plan import RemovalPlan
from shapcut.measurement.learning_curve import LearningCurve
from shapcut.measurement.measure import LATENCY, measure
from shapcut.measurement.record import ModelMeasurement
from shapcut.measurement.sizes import parameter_count
from shapcut.measurement.writing import WritingComparison, compared_writing
from shapcut.models.demo import origin
from shapcut.models.forms import form_note, form_objection
from shapcut.models.gguf_header import GGUFHeader, read_gguf_header
from shapcut.models.location import Location
from shapcut.models.predictors import is_predictor
from shapcut.models.source import read_config
from shapcut.models.stored_tensors import other_weight_files, stored_tensors
from shapcut.pipeline.output import is_gguf_output, require_gguf_cut
from shapcut.pipeline.result import PruneResult
from shapcut.pipeline.session import Session
from shapcut.steps.runner import StepResults, run_steps
from shapcut.steps.step import PostProcessor, StepContext
from shapcut.support.errors import InputError
from shapcut.support.files import write_text_atomically
from shapcut.support.progress import Reporter
from shapcut.support.run_directory import Run

_VERIFIED_WINDOWS = 2

_LANGUAGE_MODEL = re.compile(
    r"(^|\.)(language_model|text_model)\.|^(model\.)?(layers|embed_tokens|norm)\.|^lm_head"
)
"""Tensors of the language model in a multimodal checkpoint."""


@dataclass(frozen=True, eq=False, slots=True)
class CutModel:
    """A pruned model, ready to be written.

    Attributes:
        plan: the plan that was applied.
        model: the pruned model, after the steps so far.
        input_ids: held-out tokens to verify on, shape (batch, length).
        expected: logits that the written model must reproduce, shape (batch, length, vocabulary): those of
            the bypassed original, or of the model after its last step.
        parameters: number of parameters before any step.
        hints: how other tools make the same cut, in Markdown.
        as_cut: the model as the adapter left it, whose blocks know where the original's files have them; its
            weights may have changed since.
        stored: a directory with the saved model, if a step wrote one.
        tolerance: largest accepted difference of logits; None: by the number format.
        steps: the steps that were run, each with what became of it.
        curves: the learning curves of steps that train, by step.
    """

    plan: RemovalPlan
    model: nn.Module
    input_ids: Tensor
    expected: Tensor
    parameters: int
    hints: str
    as_cut: nn.Module
    stored: Path | None = None
    tolerance: float | None = None
    steps: tuple[str, ...] = ()
    curves: Mapping[str, LearningCurve] = field(default_factory=dict)


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
    """Remove players, run the steps, measure, write and verify.

    Args:
        session: the session; its model is changed and must not be used afterwards.
        plan: the players to remove.
        out: a new directory for the checkpoint, or a new GGUF file.
        run: the run directory; keeps the results of steps, so that a killed run resumes after the last one.
        reporter: reports progress.
        command: the command of the run, for the model card.
        before: figures of the original, if known.
        kept_as: file for the result, written before the checkpoint appears; default: the run's own.

    Raises:
        InputError: if the adapter cannot remove this set.
        VerificationError: if the written checkpoint does not behave as the bypassed original.
    """
    require_removal(session, plan)
    files = _require_gguf(session, plan, reporter) if is_gguf_output(out) else None
    before = before or measure_original(session, reporter, files)
    steps = StepResults(run.steps, session.steps, session.step_inputs(plan))
    cut = mend(session, remove(session, plan), steps, reporter)
    after = measure_cut(session, cut, reporter)
    with reporter.working("writing and verifying the checkpoint"):
        kept_as = kept_as or run.result
        if is_gguf_output(out):
            result = _write_gguf(session, cut, out, before, after, command=command, run=run)
        else:
            result = write(session, cut, out, before, after, command=command, kept_as=kept_as)
    say_what_is_left(session, cut, out, reporter)
    steps.clear()
    return result


def require_removal(session: Session, plan: RemovalPlan) -> None:
    """Refuse a plan that the adapter cannot apply.

    Raises:
        InputError: with the adapter's reason.
    """
    objection = form_objection(
        session.adapter, session.game.model, plan.removed, plan.granularity, session.recipe.form
    )
    if objection:
        raise InputError(f"cannot remove {list(plan.removed)}: {objection}")


def _require_gguf(session: Session, plan: RemovalPlan, reporter: Reporter) -> Path:
    """Refuse a plan that a GGUF file cannot express; warn of readers that would misread the result.

    Returns:
        The GGUF file that the model was loaded from.
    """
    source = _gguf_file(session)
    header = require_gguf_cut(source, plan.kept)
    if note := _gguf_form(header, plan):
        reporter.say(note)
    return source


def _gguf_form(header: GGUFHeader, plan: RemovalPlan) -> str:
    """What to know of the metadata of a cut GGUF file, or empty."""
    if followed_metadata(header, plan.kept).windows is None:
        return ""
    return (
        "the cut breaks the period of sliding windows, so the result states each block's in "
        f"{header.architecture}.attention.sliding_window_pattern; shapcut and llama.cpp of 2026 read "
        "that key, older llama.cpp and plain transformers do not"
    )


def _gguf_file(session: Session) -> Path:
    location = session.opened.source.location
    if location.gguf_file is None:
        raise InputError(f"{location.source} is not a GGUF file; name a directory as --out")
    return Path(location.gguf_file)


def say_what_is_left(session: Session, cut: CutModel, out: Path, reporter: Reporter) -> None:
    """Say which tensors and files of the original a written checkpoint lacks beside the removed players."""
    directory = session.opened.source.location.directory
    if directory is None:
        return
    if others := other_weight_files(directory):
        reporter.say(f"left: {', '.join(others)}; no weights of the model are read from there")
    if session.recipe.text_only:
        left = [name for name in stored_tensors(directory) if not _LANGUAGE_MODEL.search(name)]
        if left:
            reporter.say(f"--text-only drops {len(left)} tensors beside the language model ({left[0]})")
    config = read_config(session.opened.source.location, session.opened.source.trust_remote_code)
    left = [name for name in stored_tensors(directory) if is_predictor(name, config)]
    now: Any = getattr(cut.as_cut, "config", None)
    if left and not any(is_predictor(name, now) for name in stored_tensors(out)):
        reporter.say(
            f"{len(left)} tensors of layers that predict further tokens are not written ({left[0]}): the "
            "checkpoint is saved from memory, where they are not; the config's count of them is set to 0"
        )


def measure_original(session: Session, reporter: Reporter, files: Path | None = None) -> ModelMeasurement:
    """Figures of the whole model; its size is that of ``files``, or of its checkpoint."""
    files = files or session.opened.source.location.checkpoint
    with reporter.working("measuring the original"):
        return _measured(session, session.game.model, reporter, files)


def _measured(
    session: Session, model: nn.Module, reporter: Reporter, files: Path | None = None
) -> ModelMeasurement:
    found = measure(
        session.adapter,
        model,
        session.held_out,
        others=session.others,
        speed=replace(LATENCY, cache_lengths=session.recipe.cache_lengths),
        tasks=session.harness,
        tokenizer=session.opened.tokenizer,
        writes=True,
        files=files,
        seed=session.recipe.seed,
        reporter=reporter,
    )
    for note in found.notes:
        reporter.say(note)
    return found


def remove(session: Session, plan: RemovalPlan) -> CutModel:
    """Cut the session's model in place, after computing its logits with the players bypassed."""
    adapter, model = session.adapter, session.game.model
    ids = session.held_out.input_ids[:_VERIFIED_WINDOWS].to(adapter.input_device(model))
    with adapter.bypass(model, plan.kept, plan.granularity):
        expected = adapter.logits(model, ids).cpu()
    hints = export_hints(adapter, model, plan, origin(session.opened.source_name))
    model = adapter.remove_as(model, plan.removed, plan.granularity, plan.form)
    session.host.manager.hook.shapcut_model_pruned(model=model, plan=plan)
    return CutModel(plan, model, ids, expected, parameter_count(model), hints, as_cut=model)


def mend(session: Session, cut: CutModel, results: StepResults, reporter: Reporter) -> CutModel:
    """Run the recipe's steps in order, except those finished by an earlier start."""
    if not session.parts.steps:
        return cut
    adapter = session.adapter

    def context(step: PostProcessor, directory: Path) -> StepContext:
        return StepContext(
            adapter=adapter,
            plan=cut.plan,
            calibration=session.text.for_step(step, session.recipe.samples).input_ids,
            tokenizer=session.opened.tokenizer,
            directory=directory,
            seed=session.recipe.seed,
            original=session.original,
            windows=session.text.whole,
            texts=session.text.by_source,
            source=session.opened.source.location.weights,
            reporter=reporter,
        )

    done = run_steps(
        session.parts.steps,
        cut.model,
        results,
        adapter=adapter,
        context=context,
        hook=session.host.manager.hook,
        reporter=reporter,
    )
    expected = adapter.logits(done.model, cut.input_ids.to(adapter.input_device(done.model))).cpu()
    pairs = zip(session.steps, done.notes, strict=True)
    return replace(
        cut,
        model=done.model,
        expected=expected,
        stored=done.checkpoint,
        tolerance=done.tolerance,
        steps=tuple(f"{spec} ({note})" if note else spec for spec, note in pairs),
        curves={
            spec: curve for spec, curve in zip(session.steps, done.curves, strict=True) if curve is not None
        },
    )


def measure_cut(session: Session, cut: CutModel, reporter: Reporter) -> ModelMeasurement:
    """Figures of the cut model; packed words of quantized weights do not count as parameters."""
    with reporter.working("measuring the pruned model"):
        found = _measured(session, cut.model, reporter)
    return found.model_copy(update={"parameters": cut.parameters}) if session.parts.quantizes else found


def _writing(session: Session, before: ModelMeasurement, after: ModelMeasurement) -> WritingComparison | None:
    ids, tokenizer = session.held_out.input_ids, session.opened.tokenizer
    return compared_writing(before.writing, after.writing, ids, tokenizer)


def _write_gguf(
    session: Session,
    cut: CutModel,
    out: Path,
    before: ModelMeasurement,
    after: ModelMeasurement,
    *,
    command: str,
    run: Run,
) -> PruneResult:
    """As `write`, of a GGUF file cut from the one that the model was loaded from; its card is the run's."""
    source = _gguf_file(session)
    facts = replace(
        _card_facts(session, cut, out, before, after, command=command),
        library="gguf",
        usage=f"$ llama-cli -m {shlex.quote(out.name)}",
        usage_language="console",
        form=_gguf_form(read_gguf_header(source), cut.plan),
    )

    def outcome(report: CheckpointReport) -> PruneResult:
        sized = after.model_copy(update={"checkpoint_bytes": report.weight_bytes})
        return PruneResult(cut.plan, before, sized, report, writing=facts.writing)

    def keep(report: CheckpointReport) -> None:
        write_text_atomically(run.card, render_card(facts))
        outcome(report).write(run.result)

    written = write_gguf(
        session.adapter,
        cut.model,
        source,
        out,
        plan=cut.plan,
        verify_ids=cut.input_ids,
        expected_logits=cut.expected,
        before_it_appears=keep,
    )
    return outcome(written)


def _card_facts(
    session: Session,
    cut: CutModel,
    out: Path,
    before: ModelMeasurement,
    after: ModelMeasurement,
    *,
    command: str,
) -> CardFacts:
    return CardFacts(
        name=out.name,
        base_model=origin(session.opened.source_name),
        plan=cut.plan,
        calibration=session.calibration,
        held_out=session.held_out,
        others=session.others,
        before=before,
        after=after,
        command=command,
        library=session.adapter.library,
        usage=session.adapter.usage(cut.model),
        hints=cut.hints,
        steps=cut.steps,
        curves=cut.curves,
        quantized=session.parts.quantizes,
        revision=session.opened.source.location.commit,
        license_fields=_license(session.opened.source.location),
        form=form_note(cut.plan.form, cut.model),
        writing=_writing(session, before, after),
    )


def _license(location: Location) -> dict[str, str]:
    if location.gguf_file is not None:
        return license_in_gguf(Path(location.gguf_file))
    return license_of(location.checkpoint)


def write(
    session: Session,
    cut: CutModel,
    out: Path,
    before: ModelMeasurement,
    after: ModelMeasurement,
    *,
    command: str,
    kept_as: Path,
) -> PruneResult:
    """Write the checkpoint, which appears after it is verified and the result is written.

    Raises:
        VerificationError: if the reloaded checkpoint does not reproduce the expected logits.
    """
    facts = _card_facts(session, cut, out, before, after, command=command)

    def outcome(report: CheckpointReport) -> PruneResult:
        sized = after.model_copy(update={"checkpoint_bytes": report.weight_bytes})
        return PruneResult(
            cut.plan,
            before,
            sized,
            report,
            form=facts.form,
            writing=facts.writing,
            steps=cut.steps,
            curves=cut.curves,
        )

    written = write_checkpoint(
        session.adapter,
        cut.model,
        session.opened.tokenizer,
        out,
        plan=cut.plan,
        recipe_text=session.recipe.to_yaml(),
        card=render_card(facts),
        verify_ids=cut.input_ids,
        expected_logits=cut.expected,
        stored=cut.stored,
        source=session.opened.source.location.directory,
        cut_files_of=cut.as_cut if session.keeps_format else None,
        tolerance=cut.tolerance,
        before_it_appears=lambda report: outcome(report).write(kept_as),
    )
    return outcome(written)
