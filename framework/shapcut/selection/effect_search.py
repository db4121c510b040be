"""Search with main effects only, for thousands of players."""

from dataclasses import dataclass

import numpy as np

from shapcut.estimators.main_effects import Effects, MainEffects
from shapcut.game.coalitions import CoalitionMatrix, distinct, without
from shapcut.selection.rounds import Evidence, Rounds, permitted


@dataclass(slots=True)
class EffectSearch(Rounds[MainEffects]):
    """Rounds with a surrogate whose best set is known at once: the least harmful players of each group.

    Proposes that set, the best sets of effects drawn from the posterior (Thompson sampling), and the best
    measured set with one player of a group exchanged.
    """

    def fit(self, evidence: Evidence) -> MainEffects:
        """See `Rounds.fit`; keeps the first evidence of the estimate."""
        known = self.problem.contributions.surrogate
        first = known.evidence if isinstance(known, MainEffects) else None
        return MainEffects(first).fit(evidence.coalitions, evidence.values)

    @property
    def patience(self) -> int:
        """That of the options, and as many rounds as it takes to measure an exchange in each group."""
        return self.options.patience + len(self.problem.groups) // max(1, self.options.batch // 2)

    def propose(
        self, surrogate: MainEffects, evidence: Evidence, count: int, *, last: bool = False
    ) -> CoalitionMatrix:
        """See `Rounds.propose`: the optimum, half draws, half exchanges."""
        optimum, exchanged = self._optimum(surrogate.effects), self._exchanged(surrogate.effects, evidence)
        if last:
            return distinct(np.vstack([optimum, exchanged]))
        draws = [self._optimum(surrogate.draw(self.problem.rng)) for _ in range(max(count - 1, 0))]
        half = count // 2
        return distinct(np.vstack([optimum, *draws[:half], exchanged, *draws[half:]]))

    def most_valuable(self, surrogate: MainEffects, evidence: Evidence) -> CoalitionMatrix:
        """See `Rounds.most_valuable`."""
        draws = [self._optimum(surrogate.draw(self.problem.rng)) for _ in range(self.options.finalists)]
        return self.by_value(np.vstack([self._optimum(surrogate.effects), *draws]), surrogate, evidence)

    def leaders(self, surrogate: MainEffects, evidence: Evidence) -> CoalitionMatrix:
        """See `Rounds.leaders`; the sets of first evidence always race on further text."""
        best = Rounds.leaders(self, surrogate, evidence)
        known = self.problem.contributions
        first = known.coalitions[known.on_all_text & np.isfinite(known.measured)]
        first = first[(~first).sum(axis=1) == self.problem.n_remove]
        if not (self.problem.finals and len(first)):
            return best
        first = permitted(first, self.problem.permits, len(first))
        kept = best[: max(1, len(best) - len(first))]
        return distinct(np.vstack([kept, first, best]))[: len(best)]

    def _optimum(self, effects: Effects) -> CoalitionMatrix:
        """The best set of the right size, one row."""
        problem = self.problem
        ranking = np.argsort(-effects.linear, kind="stable").tolist()
        return without(problem.n_players, [problem.groups.first(ranking, problem.n_remove)])

    def _exchanged(self, effects: Effects, evidence: Evidence) -> CoalitionMatrix:
        """The best measured set with one exchange in each group that promises a gain, best first."""
        best = self.best(evidence, 1)
        found = []
        for members in self.problem.groups.members if len(best) else ():
            absent, present = members[~best[0, members]], members[best[0, members]]
            if len(absent) and len(present):
                back = absent[np.argmin(effects.linear[absent])]
                gone = present[np.argmax(effects.linear[present])]
                found.append((float(effects.linear[gone] - effects.linear[back]), int(back), int(gone)))
        better = sorted((each for each in found if each[0] > 0.0), reverse=True)
        rows = np.repeat(best[:1], len(better), axis=0)
        for row, (_, back, gone) in zip(rows, better, strict=True):
            row[[back, gone]] = True, False
        return rows if better else evidence.coalitions[:0]
