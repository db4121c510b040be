"""The measuring half of a run: contributions, and the plan that follows from them."""

import logging
import time
from contextlib import ExitStack, closing
from functools import partial

import numpy as np

from shapcut.estimators.robustness import examined
from shapcut.game.budget import BudgetedGame, MeteredGame
from shapcut.game.coalitions import CoalitionMatrix, Values
from shapcut.game.contributions import Contributions
from shapcut.game.game import Game
from shapcut.game.plan import RemovalPlan
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
"""Names of the games in a run's store; the budget counts the first."""


class Scoring:
    """The measuring half of a run: the game with its store, budget and manifest."""

    def __init__(self, session: Session, run: Run, reporter: Reporter) -> None:
        self.session = session
        self.run = run
        self.reporter = reporter
        self.manifest = Manifest.start(run, session)
        self._stored: list[StoredGame] = []
        self._count: Counter | None = None
        self._count_finals: Counter | None = None
        self._finals: list[str] = []
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
        with self.reporter.working("examining the contributions"):
            contributions = examined(contributions, measurements, again)
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
        self._finals = [f"{_FINALS}-{part}" for part in range(len(session.finals))]
        finals: list[Game] = [
            MeteredGame(self._keep(game, measured, name), cost=self._game.cost)
            for name, game, measured in zip(self._finals, session.finals, self._measured[1:], strict=True)
        ]
        if session.mended is not None:
            finals.append(self._keep(session.mended, session.mended, f"{_FINALS}-mended"))
        with (
            self.reporter.counting("searching for the best set", self._game.budget) as count,
            self.reporter.counting("comparing the best sets, parts of text", len(finals)) as count_finals,
        ):
            self._count, self._count_finals = count, count_finals
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
        if self._count_finals is not None and name in self._finals:
            self._count_finals(self._finals.index(name) + 1)
        self.session.host.manager.hook.shapcut_coalitions_evaluated(
            coalitions=coalitions, values=values, total=total
        )

    def _note(self, phase: str, begin: float) -> None:
        work = self.session.game.work
        _LOG.debug("%s took %.1f s; %d evaluations asked", phase, time.monotonic() - begin, self._game.spent)
        self.manifest.note(
            phase,
            seconds=round(time.monotonic() - begin, 3),
            evaluations_asked=self._game.spent,
            evaluations_not_finite=int((~np.isfinite(self._game.evaluated()[1])).sum()),
            evaluations_measured={stored.name: stored.measured for stored in self._stored},
            evaluations_stored={stored.name: self._store.count(stored.name) for stored in self._stored},
            evaluations_of_all_starts={s.name: self._store.measured(s.name) for s in self._stored},
            cost=self._game.cost.to_json(),
            block_runs=work.block_runs if self._measured[0] is self.session.game else None,
        )


def refuse_vetoed(host: Host, plan: RemovalPlan) -> None:
    """Ask the plugins about a plan.

    Raises:
        ShapcutError: with the first veto's reason.
    """
    vetoes = [reason for reason in host.manager.hook.shapcut_plan_ready(plan=plan) if reason]
    if vetoes:
        raise ShapcutError(f"the plan to remove {list(plan.removed)} was vetoed: {vetoes[0]}")
