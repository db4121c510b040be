"""A game that measures coalitions after compensation."""

import copy
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from shapcut.game.coalitions import CoalitionMatrix, Player, Values, absent_players
from shapcut.game.game import Game, Measurements, as_measurements
from shapcut.game.plan import RemovalPlan
from shapcut.steps.step import PostProcessor, StepContext, StoredModel
from shapcut.support.errors import UnsupportedModelError
from shapcut.valuation.model_game import ModelGame
from shapcut.valuation.readout import token_quantity
from shapcut.valuation.utilities import Measure, ModelUtility


class MendedGame(Game):
    """A game that removes the absent players from a copy of the model and runs steps on it before measuring.

    Slow: every value costs a copy of the model, the steps and one pass. The model itself never changes.

    Args:
        game: the game of the model; gives players, utility and tokens.
        steps: the steps to run after removal, each with its text form.
        windows: returns all windows of a given length from the calibration text.
        seed: seed of the steps.
        texts: the same windows by source; see `StepContext`.
    """

    def __init__(
        self,
        game: ModelGame,
        steps: Sequence[tuple[str, PostProcessor]],
        windows: Callable[[int], Tensor],
        seed: int,
        *,
        texts: Callable[[int], Mapping[str, Tensor]] | None = None,
    ) -> None:
        self._game = game
        self._steps = steps
        self._windows = windows
        self._seed = seed
        self._texts = texts

    @property
    def players(self) -> tuple[Player, ...]:
        """The model's players."""
        return self._game.players

    def permits(self, absent: Sequence[int]) -> bool:
        """Whether the model's game permits this set."""
        return self._game.permits(absent)

    def fingerprint(self) -> dict[str, str]:
        """Everything that the game's values depend on."""
        mended = " ".join(spec for spec, _ in self._steps)
        return {**self._game.fingerprint(), "mended": mended, "seed": str(self._seed)}

    def measurements(self, coalitions: CoalitionMatrix) -> Measurements:
        """The utility of each compensated model (of the unchanged model for all players); halves are NaN."""
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
        form = game.form_of(plan.removed)
        if form is None:
            raise UnsupportedModelError(f"players {list(plan.removed)} cannot be removed")
        model = game.adapter.remove_as(copy.deepcopy(game.model), plan.removed, plan.granularity, form)
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
                texts=self._texts,
            )
            for _, step in self._steps:
                outcome = step.run(model, context)
                model = outcome.model if isinstance(outcome, StoredModel) else outcome
        return model

    def _mean(self, model: nn.Module, measure: Measure) -> float:
        windows = self._game.input_ids[:, None]
        return float(torch.cat([self._tokens(model, ids, measure) for ids in windows]).mean())

    def _tokens(self, model: nn.Module, ids: Tensor, measure: Measure) -> Tensor:
        """The measure per token of one window, float64."""
        adapter = self._game.adapter
        full = adapter.logits(self._game.model, ids) if measure == "kl" else None
        return token_quantity(adapter.logits(model, ids), ids, full).double()
