"""Estimators: from a game and a budget to every player's contribution."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from shapcut.estimators.sampling import removable
from shapcut.game.budget import capped_budget
from shapcut.game.coalitions import CoalitionMatrix, Player, Values, require_numbered
from shapcut.game.contributions import Contributions, Fidelity
from shapcut.game.game import Game
from shapcut.game.groups import Groups
from shapcut.game.mixed import mixed_layers
from shapcut.game.surrogate import Surrogate
from shapcut.support.errors import InputError


@dataclass(frozen=True, slots=True)
class EstimationProblem:
    """The input of an estimator.

    Attributes:
        game: the game to measure coalitions in.
        budget: number of distinct coalitions that may be measured; at most as many as there are.
        rng: source of all randomness.
        n_remove: number of players to remove later; None if unknown.
        first_evidence: optional function that scores the players before any coalition is measured, once or
            in several ways, shape (n_players,) or (n_scores, n_players). A lower score means less harm if the
            player is absent. It may return None.
    """

    game: Game
    budget: int
    rng: np.random.Generator
    n_remove: int | None = None
    first_evidence: Callable[[], NDArray[np.float64] | None] | None = None

    def __post_init__(self) -> None:
        require_numbered(self.players)
        object.__setattr__(self, "budget", capped_budget(self.budget, self.players))

    @property
    def players(self) -> tuple[Player, ...]:
        """The game's players."""
        return self.game.players

    @property
    def n_players(self) -> int:
        """Number of players."""
        return self.game.n_players

    @property
    def candidates(self) -> NDArray[np.int64]:
        """Indices of the removable players, ascending, shape (n_candidates,)."""
        return removable(self.players)

    def require_budget(self, needed: int, estimator: str) -> None:
        """Check that at least ``needed`` coalitions may be measured.

        Raises:
            InputError: otherwise; the message names the estimator.
        """
        if self.budget < needed:
            raise InputError(
                f"estimator {estimator!r} needs a budget of at least {needed} coalitions, got {self.budget}"
            )

    def spread(self, candidate_values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Values of all players, shape (n_players,), from those of the candidates; NaN elsewhere."""
        values = np.full(self.n_players, np.nan)
        values[self.candidates] = candidate_values
        return values


class Estimator(ABC):
    """Estimates contributions; its options are its constructor's keyword arguments.

    Attributes:
        name: under which it is registered.
        handles_groups: whether it works for players whose groups must lose equally many, such as experts.
        handles_parts: whether it works for parts of layers and the experts in them as players of one game.
    """

    name: str
    handles_groups: ClassVar[bool] = False
    handles_parts: ClassVar[bool] = False

    @abstractmethod
    def estimate(self, problem: EstimationProblem) -> Contributions:
        """Estimate every player's contribution.

        Raises:
            InputError: if the budget is too small or the game too large for this estimator.
        """


class Method(Protocol):
    """What an estimator and a selector have in common, see `Estimator`."""

    name: str
    handles_groups: ClassVar[bool]
    handles_parts: ClassVar[bool]


def require_handles_players(players: Sequence[Player], kind: str, method: Method) -> None:
    """Refuse a method that does not work for the players of a game.

    Args:
        players: all players.
        kind: estimator or selector.
        method: it.

    Raises:
        InputError: naming the method.
    """
    mixed = bool(mixed_layers(players))
    if mixed and not method.handles_parts:
        raise InputError(
            f"{kind} {method.name!r} does not support blocks, MoE parts and experts together; leave the "
            "option out"
        )
    if not mixed and not method.handles_groups and len(Groups.of(players)) > 1:
        raise InputError(
            f"{kind} {method.name!r} does not support players in groups that must lose equally many, such as "
            "experts; choose another"
        )


def finite(coalitions: CoalitionMatrix, values: Values) -> tuple[CoalitionMatrix, Values]:
    """The coalitions with a finite value, and these values."""
    usable = np.isfinite(values)
    return coalitions[usable], values[usable]


def held_out_fidelity(
    make: Callable[[], Surrogate],
    coalitions: CoalitionMatrix,
    values: Values,
    rng: np.random.Generator,
    folds: int = 5,
    *,
    n_remove: int | None = None,
) -> Fidelity:
    """Cross-validated fidelity: each coalition is predicted by a surrogate fitted without it.

    All players together and single absences are always fitted to and never predicted: each says something
    about its player that no other coalition says.

    Args:
        make: makes a surrogate.
        coalitions: those with a finite value, shape (n, n_players).
        values: of the coalitions, shape (n,).
        rng: source of the folds.
        folds: number of folds.
        n_remove: number of players to remove, if known.
    """
    shuffled = rng.permutation(len(values))
    drawn = (~coalitions).sum(axis=1) > 1
    if drawn.sum() < 2:  # noqa: PLR2004 - one to fit, one to predict
        return Fidelity(None, None, None, 0)
    fold = np.where(drawn, shuffled % folds, -1)
    predicted = np.empty_like(values)
    for part in range(folds):
        out = fold == part
        if out.any():
            predicted[out] = make().fit(coalitions[~out], values[~out]).predict(coalitions[out])
    return Fidelity.of(predicted[drawn], values[drawn], coalitions[drawn], n_remove)
