"""Games that count and limit the coalitions measured."""

from collections.abc import Sequence
from math import floor
from typing import Protocol, runtime_checkable

import numpy as np

from shapcut.game.coalitions import CoalitionMatrix, Player, Values, keys
from shapcut.game.cost import Cost
from shapcut.game.game import Game, Measurements, WrappedGame
from shapcut.game.groups import Groups
from shapcut.game.scale import require_scale
from shapcut.support.errors import BudgetExceededError, InputError

_ROUNDING = 1e-6
_LEAST_CAP = 64


def capped_budget(budget: int, players: Sequence[Player]) -> int:
    """The budget, but at most the number of coalitions, as none is measured twice.

    Games of fewer than six players are left 64, since estimators spend shares of the budget.
    """
    return min(budget, max(_LEAST_CAP, 1 << sum(player.removable for player in players)))


@runtime_checkable
class Charged(Protocol):
    """Model access that charges forward passes to accounts."""

    def charged_to(self, cost: Cost) -> object:
        """The same access with one more account."""


class MeteredGame(WrappedGame):
    """Counts distinct coalitions and charges coalitions and forward passes to an account.

    Stored values count too, so that a resumed run makes the same choices as an uninterrupted one.

    Args:
        game: the game to measure in.
        cost: the account; None opens one.
        whole: the metered game that this one narrows.
    """

    def __init__(self, game: Game, *, cost: Cost | None = None, whole: "MeteredGame | None" = None) -> None:
        super().__init__(game)
        self.cost = Cost() if cost is None else cost
        self._whole = whole
        self._narrowed: dict[int, MeteredGame] = {}
        self._seen: dict[bytes, list[float]] = {}
        self._read: dict[bytes, int] = {} if whole is None else whole._read  # noqa: SLF001 - of its own class
        """The most tokens that each coalition was valued on, in a game or one that it narrows."""
        self._range = (np.inf, -np.inf)
        self._groups = Groups.of(game.players)

    @property
    def spent(self) -> int:
        """Distinct coalitions requested so far."""
        return len(self._seen)

    @property
    def asked(self) -> int:
        """Distinct coalitions requested so far, on all text or on a part of it."""
        return len(self._seen.keys() | self._read.keys())

    @property
    def access(self) -> object | None:
        """The wrapped game's model; forward passes through it are charged to this account too."""
        access = self.game.access
        return access.charged_to(self.cost) if isinstance(access, Charged) else access

    def narrowed(self, tokens: int) -> "MeteredGame":
        """The narrower game on the same account.

        A coalition counts as its share of the tokens, and on more tokens later as the share that is new.
        """
        narrower = self.game.narrowed(tokens)
        if narrower is self.game:
            return self
        return self._narrowed.setdefault(
            narrower.tokens, MeteredGame(narrower, cost=self.cost, whole=self._whole or self)
        )

    def is_known(self, coalitions: CoalitionMatrix) -> list[bool]:
        """Whether each row was requested before; repeats are free."""
        return [key in self._seen for key in keys(coalitions)]

    def measurements(self, coalitions: CoalitionMatrix) -> Measurements:
        """Measurements of the wrapped game.

        Raises:
            BudgetExceededError: before anything is measured, if the new rows exceed the budget.
        """
        names = keys(coalitions)
        new = {name: row for row, name in enumerate(names) if name not in self._seen}
        if new:
            asked = coalitions[list(new.values())]
            read = np.array([self._read.get(name, 0) for name in new])
            more = np.where(read < self.tokens, self.tokens - read, self.tokens)
            self.spend(more.sum() / (self._whole or self).tokens if self.tokens else len(new))
            found = self.game.measurements(asked)
            self._require_usable(found, len(asked))
            self._seen.update(zip(new, found.tolist(), strict=True))
            self._read.update((name, self.tokens) for name in new if self._read.get(name, 0) < self.tokens)
            self.cost.add_evaluations(len(new), int(more.sum()), int(more @ self._groups.layers_run(asked)))
        return np.array([self._seen[name] for name in names], dtype=np.float64).reshape(-1, 3)

    def _require_usable(self, found: Measurements, count: int) -> None:
        """Refuse what a game must not return, before it reaches a fit."""
        if found.shape != (count, 3):
            raise InputError(
                f"{type(self.game).__name__} gives measurements of shape {found.shape} for {count} "
                f"coalitions, not ({count}, 3)"
            )
        known = found[np.isfinite(found[:, 0]), 0]
        if len(known):
            self._range = (min(self._range[0], known.min()), max(self._range[1], known.max()))
            require_scale(np.array(self._range))

    def spend(self, evaluations: float) -> None:
        """Charge new evaluations of the whole game, or fractions of them, before they are made."""
        if self._whole is not None:
            self._whole.spend(evaluations)

    def evaluated(self) -> tuple[CoalitionMatrix, Values]:
        """All requested coalitions in order, (spent, n_players), and their values, (spent,)."""
        packed = np.frombuffer(b"".join(self._seen), dtype=np.uint8).reshape(-1, -(-self.n_players // 8))
        bits = np.unpackbits(packed, axis=1, count=self.n_players, bitorder="little")
        return bits.astype(np.bool_), np.array([found[0] for found in self._seen.values()], dtype=np.float64)


class BudgetedGame(MeteredGame):
    """A metered game with a limit on distinct coalitions; `narrowed` games use fractions of the budget."""

    def __init__(self, game: Game, budget: int, *, cost: Cost | None = None) -> None:
        super().__init__(game, cost=cost)
        self.budget = budget
        self._used = 0.0

    @property
    def remaining(self) -> int:
        """Distinct coalitions left in the budget."""
        return floor(self.budget - self._used + _ROUNDING)

    def spend(self, evaluations: float) -> None:
        """Take evaluations from the budget.

        Raises:
            BudgetExceededError: if too few are left.
        """
        left = self.budget - self._used
        if evaluations > left + _ROUNDING:
            raise BudgetExceededError(
                f"cannot measure {evaluations:g} new coalitions: {left:g} left of a budget of {self.budget}"
            )
        self._used += evaluations
