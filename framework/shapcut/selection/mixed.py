"""Search over mixed cuts: blocks, MoE parts and equally many experts of each layer, for one target."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from shapcut.estimators.mixed import MixedContributions
from shapcut.game.budget import BudgetedGame
from shapcut.game.coalitions import CoalitionMatrix, absent_players, without
from shapcut.game.contributions import Contributions
from shapcut.game.game import Game
from shapcut.game.groups import Groups, layer_sizes
from shapcut.game.kinds import Kind, KindGame
from shapcut.game.mixed import mixed_layers, mixed_summary
from shapcut.game.plan import RemovalPlan
from shapcut.game.target import Target
from shapcut.selection.base import TargetSelector
from shapcut.selection.mixed_cuts import Cuts, Split
from shapcut.selection.mixed_forecast import Forecast
from shapcut.selection.race import Heats, race
from shapcut.selection.search import SearchSelector
from shapcut.selection.targets import select_for, target_of_kind
from shapcut.support.errors import InputError

_OF_LEADER = 0.5
"""Share of the remaining budget for a second search of the leading kind."""


class MixedSelector(TargetSelector):
    """Searches mixed cuts that reach a target: blocks, MoE parts, and experts of the other layers.

    A third of the budget is spent on the best cut of each kind alone, and half of the rest on searching the
    leading kind, whose best cut costs least, once more. Then all splits between the kinds that just reach the
    target are filled by contributions; the most promising ones are measured and race over the text, then
    those around the best: one for one within a kind, a block for MoE parts, a MoE part for experts. The best
    cut of each kind alone is among the finalists; the leading kind's winner on their texts stays at least for
    half of them.

    Args:
        batch: cuts of each round.
        patience: rounds without a new leader after which the search stops.
        finalists: number of best cuts that race over further texts.
    """

    name = "mixed"
    handles_groups = True
    handles_parts = True

    def __init__(self, batch: int = 12, patience: int = 3, finalists: int = 16) -> None:
        for option, value in (("batch", batch), ("patience", patience), ("finalists", finalists)):
            if value < 1:
                raise ValueError(f"{option}={value} is less than 1")
        self.batch = batch
        self.patience = patience
        self.finalists = finalists

    def select_target(
        self,
        contributions: Contributions,
        target: Target,
        *,
        game: Game,
        budget: int,
        finals: Sequence[Game],
        rng: np.random.Generator,
    ) -> RemovalPlan:
        """See `TargetSelector.select_target`.

        Raises:
            InputError: if the contributions are not those of the estimator 'mixed', or no cut is found.
        """
        if not isinstance(contributions, MixedContributions):
            raise InputError(f"selector {self.name!r} needs the estimator 'mixed'")
        search = _Search(self, contributions, target, BudgetedGame(game, budget), rng)
        search.run(finals)
        return search.plan(finals)


@dataclass
class _Search:
    """One search.

    Attributes:
        options: the selector.
        contributions: of each kind.
        target: the target.
        game: with the budget that is left.
        rng: source of all randomness.
        known: the loss of each cut that was measured on all text.
        alone: the best cut of each kind alone.
        winner_alone: the cut of the leading kind alone that wins on the finals.
        tried: the cuts that were measured, on all text or on a part of it.
    """

    options: MixedSelector
    contributions: MixedContributions
    target: Target
    game: BudgetedGame
    rng: np.random.Generator
    known: dict[tuple[int, ...], float] = field(default_factory=dict)
    alone: dict[str, tuple[int, ...]] = field(default_factory=dict)
    winner_alone: tuple[int, ...] | None = None
    tried: set[tuple[int, ...]] = field(default_factory=set)

    def __post_init__(self) -> None:
        players, values = self.game.players, self.contributions.removal_costs
        self._kinds: Mapping[str, tuple[Kind, Contributions]] = {
            kind.name: (kind, found) for kind, found in self.contributions.kinds
        }
        self.cuts = Cuts(mixed_layers(players), Groups.of(players), self.target, values, self.game.permits)
        self._forecast = Forecast(self.contributions.kinds)
        self._blocks, self._parts = self._ranked("block"), self._ranked("moe")
        self._splits: dict[tuple[int, ...], Split] = {}

    def _ranked(self, name: str) -> list[int]:
        """The layers that can go, or whose MoE part can, least harm first."""
        if name not in self._kinds:
            return []
        kind, found = self._kinds[name]
        costs = found.removal_costs
        layers = {layer.players[0]: place for place, layer in enumerate(self.cuts.layers)}
        layers |= {layer.mixture[0]: place for place, layer in enumerate(self.cuts.layers) if layer.mixture}
        order = np.argsort(costs, kind="stable").tolist()
        return [layers[kind.sets[one][0]] for one in order if kind.players[one].removable]

    def run(self, finals: Sequence[Game]) -> None:
        """Search each kind alone, then all of them together."""
        shares = self.game.remaining // 3
        for name in self._kinds:
            self._search_alone(name, shares // len(self._kinds))
        if len(self.alone) > 1:
            leading = min(self.alone, key=lambda name: self._loss(self.alone[name]))
            share = round(_OF_LEADER * self.game.remaining)
            self.winner_alone = self._search_alone(leading, share, finals)
        heats, leader, stale = Heats(self.game), None, 0
        self._consider(self.cuts.fills(self._blocks, self._parts))
        while stale < self.options.patience and self.game.remaining > 0:
            batch = self._promising(min(self.options.batch, self.game.remaining))
            if not batch:
                break
            self._measure(batch, heats)
            best = self._best()
            stale = stale + 1 if best == leader else 0
            leader = best
            for one in best[:2]:
                if one in self._splits:
                    self._consider(self.cuts.moves(self._splits[one], self._blocks, self._parts))

    def _search_alone(self, name: str, budget: int, finals: Sequence[Game] = ()) -> tuple[int, ...] | None:
        """The best cut of one kind, if it can reach the target alone and is measured."""
        kind, found = self._kinds[name]
        try:
            plan = select_for(
                SearchSelector(),
                found,
                target_of_kind(self.target, kind),
                game=KindGame(self.game, kind),
                budget=budget,
                finals=[KindGame(final, kind) for final in finals],
                rng=self.rng,
            )
        except InputError:
            return None
        absent = tuple(kind.whole_set(plan.removed))
        row = without(self.game.n_players, [absent])
        if not self.target.reached(absent) or not (self.game.remaining or all(self.game.is_known(row))):
            return None
        self._note(row, self.game.values(row))
        self._splits[absent] = self._as_split(absent)
        if absent not in self.known:
            return None
        if self._loss(absent) <= self._loss(self.alone.get(name)):
            self.alone[name] = absent
        return absent

    def _loss(self, cut: tuple[int, ...] | None) -> float:
        """Measured loss of a cut; infinity if it was not measured."""
        return np.inf if cut is None else self.known.get(cut, np.inf)

    def _note(self, rows: CoalitionMatrix, values: NDArray[np.float64]) -> None:
        full = self.contributions.full_value or 0.0
        for row, value in zip(rows, values.tolist(), strict=True):
            if np.isfinite(value):
                self.known[absent_players(row)] = full - value

    def _as_split(self, absent: Sequence[int]) -> Split:
        gone, layers = set(absent), self.cuts.layers
        blocks = frozenset(n for n, layer in enumerate(layers) if gone.issuperset(layer.players))
        parts = frozenset(n for n, layer in enumerate(layers) if n not in blocks and layer.owner in gone)
        inside = {player for n in blocks | parts for player in layers[n].players}
        return Split(blocks, parts, frozenset(gone - inside))

    def _consider(self, splits: Iterator[Split]) -> None:
        for split in splits:
            self._splits.setdefault(self.cuts.absent(split), split)

    def _promising(self, count: int) -> list[tuple[int, ...]]:
        """The cuts of least predicted loss that were not measured, not even on a part of the text."""
        waiting = [one for one in self._splits if one not in self.known and one not in self.tried]
        if not waiting:
            return []
        order = np.argsort(self._forecast.predict(waiting), kind="stable")[:count]
        return [waiting[place] for place in order.tolist()]

    def _measure(self, batch: Sequence[tuple[int, ...]], heats: Heats) -> None:
        """Let cuts race over the text, and fit the forecast to those that reach its end."""
        rows = without(self.game.n_players, batch)
        values, measured = heats.run(rows)
        self.tried.update(batch)
        self._note(rows[measured], values[measured])
        losses = np.array(list(self.known.values()), dtype=np.float64)
        self._forecast.fit(list(self.known), losses)

    def _best(self) -> list[tuple[int, ...]]:
        """The measured cuts, best first."""
        return sorted(self.known, key=lambda one: (self.known[one], one))

    def _leaders(self) -> list[tuple[int, ...]]:
        """The finalists: the best measured cuts, and the best of each kind alone."""
        best = self._best() or self._promising(1)
        alone = [one for one in (*self.alone.values(), self.winner_alone) if one in self.known]
        kept = best[: max(1, self.options.finalists - len(alone))]
        return list(dict.fromkeys([*kept, *alone]))

    def plan(self, finals: Sequence[Game]) -> RemovalPlan:
        """The winner among the finalists.

        Raises:
            InputError: if no cut reaches the target.
        """
        leaders = self._leaders()
        if not leaders:
            raise InputError(f"{self.target.text}: found no mixed cut that reaches it")
        players = self.game.players
        kept = [place for place, cut in enumerate(leaders) if cut == self.winner_alone]
        end = race(without(len(players), leaders), finals if len(leaders) > 1 else (), kept)
        removed = leaders[end.winner]
        full, loss = self.contributions.full_value, self.known.get(removed)
        found = f"the best of {len(leaders)} finalists" if end.value is not None else "the best"
        return RemovalPlan.removing(
            removed,
            len(players),
            full_value=full,
            measured_value=None if loss is None or full is None else full - loss,
            final_value=end.value,
            layers=layer_sizes(players),
            method=self.options.name,
            reason=f"{mixed_summary(players, removed)}: {found} of {len(self.known)} mixed cuts measured",
        )
