"""The game whose coalitions are mended before they are measured: the best set to cut and mend wins."""

import copy
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from shapcut.game.coalitions import CoalitionMatrix, Player, Values, absent_players
from shapcut.game.game import Game, Measurements, as_measurements
from shapcut.game.plan import RemovalPlan
from shapcut.steps.step import PostProcessor, StepContext, StoredModel
from shapcut.valuation.model_game import ModelGame
from shapcut.valuation.readout import token_quantity
from shapcut.valuation.utilities import Measure, ModelUtility


class MendedGame(Game):
    """A model's game in which the absent players are removed from a copy, and steps mend it.

    Slow: every value costs a copy of the model, the steps and one pass. The model itself never changes.

    Args:
        game: says what the players are, what a coalition is worth and on which tokens.
        steps: what mends a cut, with the texts that asked for them.
        windows: gives all windows of a number of tokens of the calibration text.
        seed: of the steps.
    """

    def __init__(
        self,
        game: ModelGame,
        steps: Sequence[tuple[str, PostProcessor]],
        windows: Callable[[int], Tensor],
        seed: int,
    ) -> None:
        self._game = game
        self._steps = steps
        self._windows = windows
        self._seed = seed

    @property
    def players(self) -> tuple[Player, ...]:
        """The model's."""
        return self._game.players

    def permits(self, absent: Sequence[int]) -> bool:
        """The game's answer."""
        return self._game.permits(absent)

    def fingerprint(self) -> dict[str, str]:
        """What the values belong to."""
        mended = " ".join(spec for spec, _ in self._steps)
        return {**self._game.fingerprint(), "mended": mended, "seed": str(self._seed)}

    def measurements(self, coalitions: CoalitionMatrix) -> Measurements:
        """The utility of each mended model, and of the whole model as it is; the halves are unknown."""
        return as_measurements(self._utilities(coalitions))

    def _utilities(self, coalitions: CoalitionMatrix) -> Values:
        utility = self._game.utility
        if isinstance(utility, ModelUtility):
            return np.array([float(utility.function(self._mended(row))) for row in coalitions])
        means = np.array(
            [self._mean(self._mended(row), utility.measure) for row in coalitions], dtype=np.float64
        )
        return utility.value(means, self._game.evaluator.full_mean)

    def _mended(self, coalition: NDArray[np.bool_]) -> nn.Module:
        game = self._game
        plan = RemovalPlan.removing(absent_players(coalition), game.n_players, granularity=game.granularity)
        if not plan.removed:
            return game.model
        model = game.adapter.remove(copy.deepcopy(game.model), plan.removed, plan.granularity)
        with tempfile.TemporaryDirectory() as directory:
            context = StepContext(
                adapter=game.adapter,
                plan=plan,
                calibration=game.input_ids.cpu(),
                tokenizer=None,
                directory=Path(directory),
                seed=self._seed,
                original=lambda: game.model,
                windows=self._windows,
            )
            for _, step in self._steps:
                outcome = step.run(model, context)
                model = outcome.model if isinstance(outcome, StoredModel) else outcome
        return model

    def _mean(self, model: nn.Module, measure: Measure) -> float:
        windows = self._game.input_ids[:, None]
        return float(torch.cat([self._tokens(model, ids, measure) for ids in windows]).mean())

    def _tokens(self, model: nn.Module, ids: Tensor, measure: Measure) -> Tensor:
        """The measure of each token of one window, float64."""
        adapter = self._game.adapter
        full = adapter.logits(self._game.model, ids) if measure == "kl" else None
        return token_quantity(adapter.logits(model, ids), ids, full).double()
