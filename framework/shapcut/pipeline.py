"""The whole way: score, select, remove, post-process, verify, write, report."""

import json
import time
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from shapcut.checkpoint import CheckpointReport, write_checkpoint
from shapcut.coalitions import CoalitionMatrix, Values
from shapcut.contributions import Contributions
from shapcut.demo_models import origin
from shapcut.errors import InputError, ShapcutError
from shapcut.export_hints import export_hints
from shapcut.files import require_new_directory, write_json_atomically, write_text_atomically
from shapcut.game import BudgetedGame, Game, MeteredGame
from shapcut.host import Host, checkpoint_formats
from shapcut.manifest import Manifest
from shapcut.measure import ModelMeasurement, measure, parameter_count
from shapcut.mended import MendedGame
from shapcut.model_card import render_card
from shapcut.modelgame import ModelGame
from shapcut.plan import RemovalPlan
from shapcut.postprocess import PostProcessor, StepContext
from shapcut.progress import Counter, Reporter, Silent
from shapcut.reaching import select_for
from shapcut.recipe import Recipe
from shapcut.robustness import examined
from shapcut.run import Run, open_run
from shapcut.session import Session, prepare, step_windows
from shapcut.sources import checkpoint_path
from shapcut.steps import PostProcessed, StepResults, run_steps
from shapcut.store import EvaluationStore, StoredGame
from shapcut.target import Target

_BUDGETED, _FINALS = "calibration", "finals"
"""Names of the games in a run's store; the budget counts the first."""

_VERIFIED_WINDOWS = 2


@dataclass(frozen=True, slots=True)
class PruneResult:
    """What came out of a pruning.

    Attributes:
        plan: what was removed.
        before: figures of the original.
        after: figures of the pruned model.
        checkpoint: what was written, and how well it agrees with the bypassed original.
    """

    plan: RemovalPlan
    before: ModelMeasurement
    after: ModelMeasurement
    checkpoint: CheckpointReport

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "plan": json.loads(self.plan.model_dump_json()),
            "dense": json.loads(self.before.model_dump_json()),
            "pruned": json.loads(self.after.model_dump_json()),
            "checkpoint": {
                "directory": str(self.checkpoint.directory),
                "weight_bytes": self.checkpoint.weight_bytes,
                "max_logit_difference": self.checkpoint.max_difference,
                "tolerance": self.checkpoint.tolerance,
            },
        }


def default_run_directory(out: Path) -> Path:
    """Where a run is kept if the user names no place: beside the output."""
    return out.with_name(out.name + ".run")


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
    require_new_directory(out)
    reporter = reporter or Silent()
    require_one_target(recipe)
    directory = run_directory or default_run_directory(out)
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
    require_new_directory(out)
    session = prepare(recipe, host, target=True)
    _require_same_model(plan, session)
    refuse_vetoed(host, plan)
    with open_run(run_directory or default_run_directory(out)) as run:
        manifest = Manifest.start(run, session)
        plan.write(run.plan)
        result = carry_out(session, plan, out, run, reporter or Silent(), command=manifest.command)
        manifest.finish(result=result.to_json())
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


def estimate_cost(recipe: Recipe, host: Host, *, target: bool) -> dict[str, Any]:
    """What a run of this recipe would do, and about how long it would take; nothing is written.

    Raises:
        InputError: if the recipe cannot be carried out.
    """
    session = prepare(recipe, host, target=target)
    ids = session.calibration.input_ids[:1].to(session.game.input_ids.device)
    session.adapter.logits(session.game.model, ids)
    begin = time.monotonic()
    session.adapter.logits(session.game.model, ids)
    seconds = (time.monotonic() - begin) * session.calibration.samples
    cuts = [f"{cut.text} ({', '.join(map(str, cut.sizes()))} players)" for cut in session.targets]
    return {
        "model": session.loaded.source,
        "adapter": session.adapter.name,
        "players": session.game.n_players,
        "players to remove": session.n_remove,
        "targets": "; ".join(cuts) or None,
        "coalitions at most": recipe.budget,
        "tokens a coalition": session.game.tokens,
        "tokens at most": recipe.budget * session.game.tokens,
        "executor": recipe.executor,
        "arithmetic": str(session.game.dtype).removeprefix("torch."),
        "kernels": "fused" if session.game.fuse else "eager",
        "post-pruning steps": [spec for spec, _ in session.parts.steps],
        "seconds at most, by one forward pass of the whole model": round(seconds * recipe.budget),
    }


class Scoring:
    """The measuring half of a run: the game with its store, budget and manifest."""

    def __init__(self, session: Session, run: Run, reporter: Reporter) -> None:
        self.session = session
        self.run = run
        self.reporter = reporter
        self.manifest = Manifest.start(run, session)
        self._stored: list[StoredGame] = []
        self._count: Counter | None = None
        games = [session.game, *session.finals]
        with ExitStack() as resources:
            self._store = resources.enter_context(closing(EvaluationStore(run.evaluations)))
            self._measured = resources.enter_context(session.parts.executor.distribute(games))
            stored = self._keep(session.game, self._measured[0], _BUDGETED)
            self._resources = resources.pop_all()
        self._game = BudgetedGame(stored, session.recipe.budget)
        self._rng = np.random.default_rng(session.recipe.seed)
        if session.latencies is not None:
            write_text_atomically(run.latencies, session.latencies.model_dump_json(indent=2) + "\n")
        session.host.manager.hook.shapcut_run_started(run=run)

    def __enter__(self) -> "Scoring":
        return self

    def __exit__(self, *_: object) -> None:
        self._resources.close()

    def estimate(self) -> Contributions:
        """Contributions of all players, written to the run directory."""
        recipe, parts = self.session.recipe, self.session.parts
        found = self._store.count(_BUDGETED)
        if found:
            self.reporter.say(f"{found} evaluations found from an earlier start")
        begin = time.monotonic()
        with self.reporter.counting("measuring coalitions", recipe.budget) as count:
            self._count = count
            contributions = parts.estimator.estimate(
                self._game, recipe.budget, self._rng, n_remove=self.session.n_remove
            )
        again = np.random.default_rng([recipe.seed, 1])  # what follows draws as if nothing was examined
        measurements = self._game.measurements(contributions.coalitions)
        contributions = examined(contributions, measurements, again)
        write_json_atomically(self.run.contributions, contributions.to_json())
        self._note("estimate", begin)
        return contributions

    def choose(
        self, contributions: Contributions, target: Target | None = None, *, share: float = 1.0
    ) -> RemovalPlan:
        """The removal plan, written to the run directory.

        Args:
            contributions: what the estimator found.
            target: what is to be reached; default the recipe's first target.
            share: part of what is left of the budget that may be spent.

        Raises:
            ShapcutError: if a plugin vetoes it.
        """
        session = self.session
        target = target or session.targets[0]
        begin = time.monotonic()
        finals: list[Game] = [
            MeteredGame(self._keep(game, measured, f"{_FINALS}-{part}"), cost=self._game.cost)
            for part, (game, measured) in enumerate(zip(session.finals, self._measured[1:], strict=True))
        ]
        if session.mended is not None:
            finals.append(self._keep(session.mended, session.mended, f"{_FINALS}-mended"))
        with self.reporter.counting("searching for the best set", self._game.budget) as count:
            self._count = count
            chosen = select_for(
                session.parts.selector,
                contributions,
                session.game.players,
                target,
                game=self._game,
                budget=round(share * self._game.remaining),
                finals=finals,
                rng=self._rng,
            )
        plan = chosen.model_copy(
            update={
                "model_fingerprint": session.game.model_fingerprint,
                "granularity": session.recipe.granularity,
                "utility": session.parts.utility.name,
            }
        )
        refuse_vetoed(session.host, plan)
        plan.write(self.run.plan)
        if len(session.targets) > 1:
            self.run.plan_of(target.label).parent.mkdir(exist_ok=True)
            plan.write(self.run.plan_of(target.label))
        self._note("select" if len(session.targets) == 1 else f"select {target.label}", begin)
        return plan

    def _keep(self, game: ModelGame | MendedGame, measured: Game, name: str) -> StoredGame:
        stored = StoredGame(
            measured,
            self._store,
            name=name,
            fingerprint=game.fingerprint(),
            observe=partial(self._observe, name),
        )
        self._stored.append(stored)
        return stored

    def _observe(self, name: str, coalitions: CoalitionMatrix, values: Values, total: int) -> None:
        if self._count is not None and name == _BUDGETED:
            self._count(total)
        self.session.host.manager.hook.shapcut_coalitions_evaluated(
            coalitions=coalitions, values=values, total=total
        )

    def _note(self, phase: str, begin: float) -> None:
        work = self.session.game.work
        self.manifest.note(
            phase,
            seconds=round(time.monotonic() - begin, 3),
            evaluations_asked=self._game.spent,
            evaluations_measured={stored.name: stored.measured for stored in self._stored},
            cost=self._game.cost.to_json(),
            block_runs=work.block_runs if self._measured[0] is self.session.game else None,
        )


def require_one_target(recipe: Recipe) -> None:
    """Refuse several cuts where one result is wanted.

    Raises:
        InputError: with what to use.
    """
    if len(recipe.target_labels()) > 1:
        raise InputError(f"several targets ({', '.join(recipe.target_labels())}) where one is wanted")


def refuse_vetoed(host: Host, plan: RemovalPlan) -> None:
    """Ask the plugins about a plan.

    Raises:
        ShapcutError: with the first veto's reason.
    """
    vetoes = [reason for reason in host.manager.hook.shapcut_plan_ready(plan=plan) if reason]
    if vetoes:
        raise ShapcutError(f"the plan to remove {list(plan.removed)} was vetoed: {vetoes[0]}")


def carry_out(
    session: Session,
    plan: RemovalPlan,
    out: Path,
    run: Run,
    reporter: Reporter,
    *,
    command: str,
    before: ModelMeasurement | None = None,
) -> PruneResult:
    """Remove, post-process, verify and write; ``before`` is the original's measurement if it is known.

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
    reporter.say("measuring the pruned model")
    after = measure(adapter, model, session.held_out, seed=recipe.seed)
    if any(step.gives_quantized for _, step in session.parts.steps):
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
    )
    reporter.say("writing and verifying the checkpoint")
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
    )
    steps.clear()
    after = after.model_copy(update={"checkpoint_bytes": written.weight_bytes})
    return PruneResult(plan, before, after, written)


def measure_original(session: Session, reporter: Reporter) -> ModelMeasurement:
    """The figures of the whole model."""
    reporter.say("measuring the original")
    recipe = session.recipe
    files = checkpoint_path(recipe.model, checkpoint_formats(session.host))
    return measure(session.adapter, session.game.model, session.held_out, files=files, seed=recipe.seed)


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
