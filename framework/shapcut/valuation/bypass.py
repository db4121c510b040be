"""Evaluation by bypass: slow, universal, exact."""

from collections.abc import Iterator, Sequence
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from shapcut.game.coalitions import CoalitionMatrix
from shapcut.game.game import WindowPart
from shapcut.game.granularity import Granularity
from shapcut.game.groups import Groups
from shapcut.models.adapter import Adapter
from shapcut.valuation.evaluator import Evaluator, Work
from shapcut.valuation.readout import means_of_windows, token_quantity
from shapcut.valuation.utilities import Measure


class BypassEvaluator(Evaluator):
    """The reference semantics: a forward pass for each coalition with the absent players bypassed.

    Slow and universal: the reference for testing the fast path, and the evaluator of models without one.
    Takes the arguments of `CoalitionEvaluator`, with a model and its adapter in place of the stack, and
    ``sequences_per_step``. In half precision that number alone changes losses by hundredths of a nat, because
    sums are taken in another order.
    """

    def __init__(
        self,
        adapter: Adapter,
        model: nn.Module,
        input_ids: Tensor,
        measure: Measure,
        granularity: Granularity = "block",
        *,
        sequences_per_step: int = 1,
    ) -> None:
        self.work = Work(len(input_ids))
        self._adapter = adapter
        self._model = model
        self._sequences_per_step = sequences_per_step
        self._input_ids = input_ids
        self._measure: Measure = measure
        self._granularity: Granularity = granularity
        players = adapter.players(model, granularity)
        self._n_players = len(players)
        self._groups = Groups.of(players)

    @cached_property
    def full(self) -> NDArray[np.float64]:
        """See `Evaluator.full`."""
        return self._measured(np.ones(self._n_players, dtype=np.bool_), 0, len(self._input_ids))

    def parts(self, coalitions: CoalitionMatrix, first: int, last: int) -> Iterator[WindowPart]:
        """See `Evaluator.parts`: row by row."""
        layers = self._groups.layers_run(coalitions).tolist()
        for row, coalition in enumerate(coalitions):
            self.work.window_coalitions += last - first
            self.work.window_runs += (last - first) * layers[row]
            yield WindowPart(np.array([row]), first, self._measured(coalition, first, last)[None])

    def _measured(self, coalition: NDArray[np.bool_], first: int, last: int) -> NDArray[np.float64]:
        present = np.flatnonzero(coalition).tolist()
        batches = torch.split(self._input_ids[first:last], self._sequences_per_step)
        tokens = torch.cat([self._tokens(batch, present) for batch in batches])
        found: NDArray[np.float64] = means_of_windows(tokens, last - first).cpu().numpy()
        return found

    def _tokens(self, batch: Tensor, present: Sequence[int]) -> Tensor:
        full = self._adapter.logits(self._model, batch) if self._measure == "kl" else None
        with self._adapter.bypass(self._model, present, self._granularity):
            logits = self._adapter.logits(self._model, batch)
        return token_quantity(logits, batch, full)
