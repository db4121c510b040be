"""Taylor importance: the first-order change of the loss when a block's weights are set to zero."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - the name that PyTorch's users know
from numpy.typing import NDArray
from torch import Tensor, nn

from shapcut.baselines.scores import protected, scored
from shapcut.estimators.base import EstimationProblem, Estimator
from shapcut.game.contributions import Contributions
from shapcut.game.cost import FORWARD_AND_BACKWARD
from shapcut.models.layer_stack import LayerStack
from shapcut.support.errors import InputError
from shapcut.valuation.model_access import ModelAccess, require_access
from shapcut.valuation.readout import predicting
from shapcut.valuation.residual_stream import windows_per_step

_TOKENS_PER_STEP = 512


class TaylorEstimator(Estimator):
    """``sum |w * dL/dw|`` over a block's own weights, from one backward pass of the next-token loss L.

    Source: Shortened LLaMA, Kim et al., arXiv 2402.02834, section 3.1 (Taylor); its "Taylor+" keeps the first
    4 and the last 2 blocks: ``taylor:keep_first=4,keep_last=2``.

    Args:
        keep_first: number of first players that are removed after all others.
        keep_last: number of last players that are removed after all others.
    """

    name = "taylor"

    def __init__(self, keep_first: int = 0, keep_last: int = 0) -> None:
        protected(keep_first + keep_last, keep_first, keep_last)
        self.keep_first = keep_first
        self.keep_last = keep_last

    def estimate(self, problem: EstimationProblem) -> Contributions:
        """See `Estimator.estimate`; measures no coalition.

        Raises:
            InputError: if the game has no model or it gives no gradients.
        """
        access = require_access(problem.game, f"estimator {self.name!r}")
        values = taylor_importance(access) * protected(problem.n_players, self.keep_first, self.keep_last)
        return scored(
            problem.players,
            values,
            estimator=self.name,
            weighting="sum of |weight * gradient of the loss| over a block; no coalition was measured",
        )


def taylor_importance(access: ModelAccess) -> NDArray[np.float64]:
    """``sum |w * dL/dw|`` over each player's own weights, shape (n_players,); charges the pass.

    Raises:
        InputError: if weights are not in memory or the model gives no gradients.
    """
    players = access.adapter.players(access.model, access.granularity)
    weights = [access.adapter.player_parameters(access.model, player) for player in players]
    if any(weight.is_meta for own in weights for weight in own):
        raise InputError("estimator 'taylor' needs all weights in memory: leave --offload out")
    stack = access.adapter.stack(access.model, access.granularity)
    access.charge(len(players), times=FORWARD_AND_BACKWARD)
    predicted = access.input_ids[:, 1:].numel()
    with _gradients_of([weight for own in weights for weight in own]):
        for ids in torch.split(access.input_ids, windows_per_step(access, stack, _TOKENS_PER_STEP)):
            _add_gradients(_summed_loss(access, stack, len(players), ids) / predicted)
        return np.array([sum(_importance(weight) for weight in own) for own in weights], dtype=np.float64)


def _importance(weight: nn.Parameter) -> float:
    if weight.grad is None:  # these tokens do not use the weight
        return 0.0
    return float((weight.detach() * weight.grad).abs().double().sum())


def _summed_loss(access: ModelAccess, stack: LayerStack | None, n_players: int, ids: Tensor) -> Tensor:
    """Differentiable next-token loss in nats, summed over the predicted tokens."""
    if stack is None:
        logits = access.adapter.differentiable_logits(access.model, ids)
    else:
        state = stack.prelude(ids)
        for layer in range(len(stack.stages(n_players))):
            state = stack.step(layer, state)
        logits = stack.readout(state)
    return F.cross_entropy(predicting(logits).float(), ids[:, 1:].flatten(), reduction="sum")


def _add_gradients(loss: Tensor) -> None:
    if not loss.requires_grad:
        raise InputError("estimator 'taylor' needs gradients, which this model's blocks do not give")
    loss.backward()  # type: ignore[no-untyped-call]


@contextmanager
def _gradients_of(weights: Sequence[nn.Parameter]) -> Iterator[None]:
    """Collect gradients of these weights; restore their state on exit."""
    before = [(weight.requires_grad, weight.grad) for weight in weights]
    try:
        for weight in weights:
            weight.grad = None
            weight.requires_grad = True
        with torch.enable_grad():
            yield
    finally:
        for weight, (required, gradient) in zip(weights, before, strict=True):
            weight.requires_grad = required
            weight.grad = gradient
