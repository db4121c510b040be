"""Run the methods of a comparison on one seed's windows, with one cost account per method."""

import hashlib
import json
import math
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from shapcut.baselines.expert_statistics import first_evidence
from shapcut.comparison.contestants import Contestant
from shapcut.comparison.row import ResultRow
from shapcut.data.windows import Calibration
from shapcut.estimators.base import EstimationProblem, require_handles_players
from shapcut.estimators.sampling import removable
from shapcut.game.budget import BudgetedGame, MeteredGame, capped_budget
from shapcut.game.coalitions import CoalitionMatrix, Values, without
from shapcut.game.game import Game
from shapcut.game.groups import Groups
from shapcut.game.plan import RemovalPlan
from shapcut.game.scale import require_spread
from shapcut.game.store import EvaluationStore
from shapcut.game.stored_game import Observer, StoredGame
from shapcut.pipeline.session import Session
from shapcut.pipeline.windows import final_games
from shapcut.selection.base import SelectionProblem
from shapcut.support.errors import InputError
from shapcut.support.progress import Counter, Reporter
from shapcut.valuation.model_game import ModelGame
from shapcut.valuation.utilities import LogLikelihood, TokenUtility, bound_utility


def stored(game: ModelGame, store: EvaluationStore, observe: Observer | None = None) -> StoredGame:
    """Keep a game in a store shared by several games, under a name made from its fingerprint."""
    fingerprint = game.fingerprint()
    digest = hashlib.sha256(json.dumps(fingerprint, sort_keys=True).encode()).hexdigest()
    name = f"{game.utility.name} {digest[:16]}"
    return StoredGame(game, store, name=name, fingerprint=fingerprint, observe=observe)


class HeldOutGame:
    """Perplexity on a held-out text in the model's own dtype; each set is measured once.

    Args:
        session: with the model.
        text: windows of the text.
    """

    def __init__(self, session: Session, text: Calibration) -> None:
        game = session.game
        self.text = text
        self._n_players = game.n_players
        self._game = game.on(text.input_ids, utility=LogLikelihood(), dtype=game.own_dtype, fuse=False)
        self._found: dict[tuple[int, ...], tuple[float, ...]] = {}

    def nats(self, removed: Sequence[int]) -> tuple[float, ...]:
        """Loss per token on each window without these players; empty if one is not finite."""
        key = tuple(sorted(removed))
        if key not in self._found:
            (means,) = self._game.evaluator.window_means(without(self._n_players, [key])).tolist()
            self._found[key] = tuple(means) if all(map(math.isfinite, means)) else ()
        return self._found[key]

    def perplexity(self, removed: Sequence[int]) -> float | None:
        """Perplexity without these players; None if it is not finite."""
        nats = self.nats(removed)
        mean = sum(nats) / len(nats) if nats else math.inf
        return math.exp(mean) if mean < math.log(1e300) else None

    def judged(self, row: ResultRow) -> ResultRow:
        """The row with its held-out loss, unless the method failed."""
        if row.failure:
            return row
        found = {"held_out_perplexity": self.perplexity(row.removed), "held_out_nats": self.nats(row.removed)}
        return row.model_copy(update=found)


class Contest:
    """All methods on the calibration windows of one seed.

    Args:
        session: model, text and budget.
        seed: seed of the windows and of every method.
        store: the store of all values.
        reporter: reports progress.
    """

    def __init__(self, session: Session, seed: int, store: EvaluationStore, reporter: Reporter) -> None:
        self.seed = seed
        self._session = session
        self._store = store
        self._reporter = reporter
        recipe, text = session.recipe, replace(session.text, seed=seed)
        windows = text.calibration(recipe.samples)
        self._first = session.game.on(windows.input_ids)
        self._finals = final_games(
            text,
            recipe.finalist_samples,
            self._first,
            required="finalist_samples" in recipe.model_fields_set,
        )
        self._games: dict[str, ModelGame] = {}
        self._plain = stored(self._game(LogLikelihood.name), store)

    def identity(self, contestant: Contestant, n_remove: int) -> dict[str, Any]:
        """Everything that determines a row."""
        method = contestant.method
        game = self._played_on(contestant)
        return {
            "method": contestant.label,
            "estimator": method.estimator,
            "selector": method.selector,
            "budget": self._budget(contestant, n_remove),
            "n_remove": n_remove,
            "seed": self.seed,
            "game": game.fingerprint(),
            "finals": [part.fingerprint()["data"] for part in self._finals],
        }

    def row(self, contestant: Contestant, n_remove: int, key: str) -> ResultRow:
        """Run a method and return its row, without held-out perplexity."""
        method = contestant.method
        utility = method.utility or self._session.recipe.utility
        budget = self._budget(contestant, n_remove)
        row = ResultRow(
            key=key,
            method=contestant.label,
            estimator=method.estimator,
            selector=method.selector,
            utility=utility,
            source=method.source,
            budget=budget,
            n_remove=n_remove,
            seed=self.seed,
        )
        self._reporter.say(f"{contestant.label}: removing {n_remove}, seed {self.seed}")
        try:
            with self._reporter.counting(contestant.label, budget) as count:
                return row.model_copy(update=self._played(contestant, budget, n_remove, count))
        except InputError as error:
            return row.model_copy(update={"failure": str(error)})

    def _played(self, contestant: Contestant, budget: int, n_remove: int, count: Counter) -> dict[str, Any]:
        game = self._played_on(contestant)
        kept = stored(game, self._store, self._announce)
        metered = BudgetedGame(kept, budget)
        parts = [part.on(part.input_ids, utility=game.utility) for part in self._finals]
        games = [kept, *(stored(part, self._store, self._announce) for part in parts)]
        finals = [MeteredGame(part, cost=metered.cost) for part in games[1:]]
        if budget and isinstance(game.utility, TokenUtility):
            _ = game.evaluator  # set up before the clock starts, once for all methods
        begin = time.monotonic()
        with kept.observed_by(lambda *_: count(math.floor(kept.measured_in_all()))):
            plan = self._chosen(contestant, metered, finals, n_remove)
        elapsed = time.monotonic() - begin
        (value,) = self._plain.values(without(game.n_players, [plan.removed])).tolist()
        return {
            "removed": plan.removed,
            "calibration_nats": -value if math.isfinite(value) else None,
            **metered.cost.to_json(),
            "seconds": round(elapsed + sum(each.reuse.seconds for each in games), 3),
            "seconds_elapsed": round(elapsed, 3),
            "reason": plan.reason,
        }

    def _chosen(
        self, contestant: Contestant, game: BudgetedGame, finals: Sequence[Game], n_remove: int
    ) -> RemovalPlan:
        host, rng = self._session.host, np.random.default_rng(self.seed)
        estimator = host.estimators.create(contestant.method.estimator)
        selector = host.selectors.create(contestant.method.selector)
        require_handles_players(game.players, "estimator", estimator)
        require_handles_players(game.players, "selector", selector)
        evidence = partial(first_evidence, game)
        contributions = estimator.estimate(EstimationProblem(game, game.budget, rng, n_remove, evidence))
        require_spread(contributions.measured)
        problem = SelectionProblem(
            contributions,
            game.players,
            n_remove,
            game=game,
            budget=game.remaining,
            finals=finals,
            rng=rng,
        )
        return selector.select(problem)

    def _budget(self, contestant: Contestant, n_remove: int) -> int:
        players = self._first.players
        budget = capped_budget(self._session.recipe.budget, players)
        given = "budget" in self._session.recipe.model_fields_set
        return contestant.evaluations(
            len(removable(players)), n_remove, budget, len(Groups.of(players)), given_by_user=given
        )

    def _played_on(self, contestant: Contestant) -> ModelGame:
        """The game that a method runs in."""
        method = contestant.method
        game = self._game(method.utility or self._session.recipe.utility)
        return game if method.windows is None else game.narrowed(method.windows * game.input_ids.shape[1])

    def _game(self, utility: str) -> ModelGame:
        """The game on this seed's windows with a utility."""
        if utility not in self._games:
            opened = self._session.opened
            made = self._session.host.utilities.create(utility)
            made = bound_utility(made, opened.adapter, opened.tokenizer)
            self._games[utility] = self._first.on(self._first.input_ids, utility=made)
        return self._games[utility]

    def _announce(self, coalitions: CoalitionMatrix, values: Values, total: int) -> None:
        self._session.host.manager.hook.shapcut_coalitions_evaluated(
            coalitions=coalitions, values=values, total=total
        )
