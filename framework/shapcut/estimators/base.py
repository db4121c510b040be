"""Estimators: from a game and a budget to every player's contribution."""

from abc import ABC, abstractmethod
from collections.abc import Callable

import numpy as np

from shapcut.game.coalitions import CoalitionMatrix, Values
from shapcut.game.contributions import Contributions, Fidelity
from shapcut.game.game import Game
from shapcut.game.surrogate import Surrogate


class Estimator(ABC):
    """Estimates contributions; its options are its constructor's keyword arguments."""

    name: str

    @abstractmethod
    def estimate(
        self, game: Game, budget: int, rng: np.random.Generator, *, n_remove: int | None = None
    ) -> Contributions:
        """Estimate every player's contribution.

        Args:
            game: the game to ask.
            budget: how many distinct coalitions may be evaluated.
            rng: source of all randomness.
            n_remove: how many players are to be removed later, if known: where to look closely.

        Raises:
            InputError: if the budget is too small or the game too large for this estimator.
        """


def finite(coalitions: CoalitionMatrix, values: Values) -> tuple[CoalitionMatrix, Values]:
    """The rows with a finite value: a coalition and its value always stay or go together."""
    usable = np.isfinite(values)
    return coalitions[usable], values[usable]


def held_out_fidelity(
    make: Callable[[], Surrogate],
    coalitions: CoalitionMatrix,
    values: Values,
    rng: np.random.Generator,
    folds: int = 5,
) -> Fidelity:
    """Fidelity by cross-validation: each coalition is predicted by a surrogate that did not see it."""
    if len(values) < 2:  # noqa: PLR2004 - one to fit to, one to predict
        return Fidelity(None, None, None, 0)
    fold = rng.permutation(len(values)) % folds
    predicted = np.empty_like(values)
    for part in range(folds):
        out = fold == part
        if out.any():
            predicted[out] = make().fit(coalitions[~out], values[~out]).predict(coalitions[out])
    return Fidelity.of(predicted, values, coalitions)
