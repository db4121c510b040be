"""The measuring half of a run: contributions and the removal plan."""

import logging
import time
from contextlib import AbstractContextManager, ExitStack, closing
from functools import partial
from types import TracebackType

import numpy as np

from shapcut.baselines.expert_statistics import first_evidence
from shapcut.estimators.base import EstimationProblem
from shapcut.estimators.robustness import examined
from shapcut.game.budget import BudgetedGame, MeteredGame, capped_budget
from shapcut.game.coalitions import CoalitionMatrix, Values
from shapcut.game.contributions import Contributions
from shapcut.game.game import Game
from shapcut.game.mixed import removed_parts
from shapcut.game.plan import RemovalPlan
from shapcut.game.scale import require_spread
from shapcut.game.store import EvaluationStore
from shapcut.game.stored_game import StoredGame
from shapcut.game.target import Target
from shapcut.host.host import Host
from shapcut.pipeline.manifest import Manifest
from shapcut.pipeline.session import Session
from shapcut.selection.targets import select_for
from shapcut.steps.compensated_game import MendedGame
from shapcut.support.errors import ShapcutError
from shapcut.support.files import write_json_atomically, write_text_atomically
from shapcut.support.progress import Counter, Reporter
from shapcut.support.run_directory import Run
from shapcut.valuation.model_game import ModelGame

_LOG = logging.getLogger(__name__)

_BUDGETED, _FINALS = "calibration", "finals"
"""Names of the games in a run's store; the budget applies to the first."""


class Scoring:
    """The measuring half of a run: a game with a store, a budget and a manifest."""

    def __init__(self, session: Session, run: Run, reporter: Reporter) -> None:
        self.session = session
        self.run = run
        self.reporter = reporter
        self._kept: dict[str, StoredGame] = {}
        games = [session.game, *session.finals]
        with ExitStack() as resources:
            self._store = resources.enter_context(closing(EvaluationStore(run.evaluations)))
            for name, game in zip([_BUDGETED, *_final_names(session)], games, strict=True):
                self._store.holds(name, game.fingerprint())
            self.manifest = Manifest.start(run, session)
            resources.enter_context(self.manifest.noting_failure())
            self._measured = resources.enter_context(session.parts.executor.distribute(games))
            self._stored = self._keep(session.game, self._measured[0], _BUDGETED)
            self._resources = resources.pop_all()
        self._game = BudgetedGame(self._stored, capped_budget(session.recipe.budget, session.game.players))
        self._rng = np.random.default_rng(session.recipe.seed)
        if session.latencies is not None:
            write_text_atomically(run.latencies, session.latencies.model_dump_json(indent=2) + "\n")
        session.host.manager.hook.shapcut_run_started(run=run)

    def __enter__(self) -> "Scoring":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._resources.__exit__(kind, error, traceback)

    def estimate(self) -> Contributions:
        """Estimate all contributions and write them to the run directory."""
        seed = self.session.recipe.seed
        found, windows = self._store.count(_BUDGETED), self._store.count_windows(_BUDGETED)
        if found or windows:
            further = f", and {windows} windows of further coalitions" if windows else ""
            self.reporter.say(f"{found} evaluations found from an earlier start{further}")
        begin = time.monotonic()
        problem = EstimationProblem(
            self._game,
            self._game.budget,
            self._rng,
            self.session.n_remove,
            partial(first_evidence, self._game),
        )
        with (
            self.reporter.counting("measuring coalitions", self._game.budget) as count,
            self._counted_by(count),
        ):
            contributions = self.session.parts.estimator.estimate(problem)
        require_spread(contributions.measured)
        again = np.random.default_rng([seed, 1])  # leaves the selector's draws unchanged
        measurements = self._game.measurements(contributions.coalitions[contributions.on_all_text])
        with self.reporter.working("examining the contributions"):
            contributions = examined(contributions, measurements, again)
        self._warn(contributions)
        write_json_atomically(self.run.contributions, contributions.to_json())
        self._note("estimate", begin)
        return contributions

    def _warn(self, contributions: Contributions) -> None:
        """Report damaged evaluations and coalitions without a finite value."""
        if self._store.damaged:
            self.reporter.say(
                f"warning: {self._store.damaged} evaluations in {self.run.evaluations} were damaged and have "
                "been measured again; check the disk"
            )
        if contributions.excluded:
            self.reporter.say(
                f"warning: {contributions.excluded} of {contributions.evaluations} coalitions have no finite "
                "value; they are left out of every fit and never chosen"
            )

    def choose(
        self, contributions: Contributions, target: Target | None = None, *, share: float = 1.0
    ) -> RemovalPlan:
        """Choose what to remove and write the plan to the run directory.

        Args:
            contributions: the estimator's result.
            target: the target; None for the recipe's first one.
            share: fraction of the remaining budget to spend.

        Raises:
            ShapcutError: if a plugin vetoes it.
        """
        session = self.session
        target = target or session.targets[0]
        begin = time.monotonic()
        n_finals = len(session.finals) + (session.mended is not None)
        with (
            self.reporter.counting("searching for the best set", self._game.budget) as count,
            self.reporter.counting("comparing the best sets, parts of text", n_finals) as count_finals,
            self._counted_by(count),
        ):
            chosen = select_for(
                session.parts.selector,
                contributions,
                target,
                game=self._game,
                budget=round(share * self._game.remaining),
                finals=self._finals(count_finals),
                rng=self._rng,
            )
        plan = chosen.model_copy(
            update={
                "model_fingerprint": session.game.model_fingerprint,
                "granularity": session.recipe.granularity,
                "form": session.game.form_of(chosen.removed) or "same",
                "utility": session.parts.utility.name,
                "parts": self._parts(chosen),
            }
        )
        refuse_vetoed(session.host, plan)
        self._write(plan, target)
        self._note("select" if len(session.targets) == 1 else f"select {target.label}", begin)
        return plan

    def _parts(self, plan: RemovalPlan) -> dict[str, tuple[int, ...]]:
        if self.session.recipe.granularity != "sublayer":
            return {}
        return removed_parts(self.session.game.players, plan.removed)

    def _write(self, plan: RemovalPlan, target: Target) -> None:
        plan.write(self.run.plan)
        if len(self.session.targets) > 1:
            self.run.plan_of(target.label).parent.mkdir(exist_ok=True)
            plan.write(self.run.plan_of(target.label))

    def _finals(self, count: Counter) -> list[Game]:
        """The games on further texts; ``count`` is called with the number of games in use."""
        session = self.session
        finals: list[Game] = [
            MeteredGame(self._keep(game, measured, name, count, part), cost=self._game.cost)
            for part, (name, game, measured) in enumerate(
                zip(_final_names(session), session.finals, self._measured[1:], strict=True), start=1
            )
        ]
        if session.mended is not None:
            name, reached = f"{_FINALS}-mended", len(finals) + 1
            finals.append(self._keep(session.mended, session.mended, name, count, reached))
        return finals

    def _counted_by(self, count: Counter) -> AbstractContextManager[None]:
        """Report the number of stored coalitions of the budgeted game inside a ``with`` block."""
        return self._stored.observed_by(lambda _coalitions, _values, total: count(total))

    def _keep(
        self,
        game: ModelGame | MendedGame,
        measured: Game,
        name: str,
        count: Counter | None = None,
        reached: int = 0,
    ) -> StoredGame:
        """Keep a game's values in the store; each commit calls ``count`` with ``reached``."""

        def observe(coalitions: CoalitionMatrix, values: Values, total: int) -> None:
            if count is not None:
                count(reached)
            if len(coalitions):
                self._announce(coalitions, values, total)

        stored = StoredGame(measured, self._store, name=name, fingerprint=game.fingerprint(), observe=observe)
        self._kept[name] = stored
        return stored

    def _announce(self, coalitions: CoalitionMatrix, values: Values, total: int) -> None:
        self.session.host.manager.hook.shapcut_coalitions_evaluated(
            coalitions=coalitions, values=values, total=total
        )

    def _note(self, phase: str, begin: float) -> None:
        work = self.session.game.work
        kept = [each for game in self._kept.values() for each in game.with_narrowed()]
        _LOG.debug("%s took %.1f s; %d evaluations asked", phase, time.monotonic() - begin, self._game.asked)
        self.manifest.note(
            phase,
            seconds=round(time.monotonic() - begin, 3),
            evaluations_asked=self._game.asked,
            evaluations_not_finite=int((~np.isfinite(self._game.evaluated()[1])).sum()),
            evaluations_measured={game.name: game.measured for game in kept},
            evaluations_stored={game.name: self._store.count(game.name) for game in kept},
            evaluations_of_all_starts={game.name: self._store.measured(game.name) for game in kept},
            cost=self._game.cost.to_json(),
            block_runs=round(work.block_runs) if self._measured[0] is self.session.game else None,
        )


def _final_names(session: Session) -> list[str]:
    """The names of the finals in a run's store."""
    return [f"{_FINALS}-{part}" for part in range(len(session.finals))]


def refuse_vetoed(host: Host, plan: RemovalPlan) -> None:
    """Ask the plugins whether to veto a plan.

    Raises:
        ShapcutError: with the first veto's reason.
    """
    vetoes = [reason for reason in host.manager.hook.shapcut_plan_ready(plan=plan) if reason]
    if vetoes:
        raise ShapcutError(f"the plan to remove {list(plan.removed)} was vetoed: {vetoes[0]}")
