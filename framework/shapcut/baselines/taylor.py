"""Taylor importance: how much the loss would change if a block's weights were zero, to first order."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - the name that PyTorch's users know
from numpy.typing import NDArray
from torch import Tensor, nn

from shapcut.baselines.scores import protected, scored
from shapcut.estimators.base import Estimator
from shapcut.game.contributions import Contributions
from shapcut.game.cost import FORWARD_AND_BACKWARD
from shapcut.game.game import Game
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
        keep_first: how many of the first players go after all others.
        keep_last: how many of the last players go after all others.
    """

    name = "taylor"

    def __init__(self, keep_first: int = 0, keep_last: int = 0) -> None:
        protected(keep_first + keep_last, keep_first, keep_last)
        self.keep_first = keep_first
        self.keep_last = keep_last

    def estimate(
        self,
        game: Game,
        budget: int,  # noqa: ARG002 - no coalition is measured
        rng: np.random.Generator,  # noqa: ARG002 - nothing is random
        *,
        n_remove: int | None = None,  # noqa: ARG002 - one order serves any number
    ) -> Contributions:
        """See `Estimator.estimate`.

        Raises:
            InputError: if there is no model behind the game, or it gives no gradients.
        """
        access = require_access(game, f"estimator {self.name!r}")
        values = taylor_importance(access) * protected(game.n_players, self.keep_first, self.keep_last)
        return scored(
            game.players,
            values,
            estimator=self.name,
            weighting="sum of |weight * gradient of the loss| over a block; no coalition was measured",
        )


def taylor_importance(access: ModelAccess) -> NDArray[np.float64]:
    """``sum |w * dL/dw|`` over each player's own weights, shape (n_players,); the pass is charged.

    Raises:
        InputError: if weights are not in memory, or the model gives no gradients.
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
    if weight.grad is None:  # a weight that these tokens do not use
        return 0.0
    return float((weight.detach() * weight.grad).abs().double().sum())


def _summed_loss(access: ModelAccess, stack: LayerStack | None, n_layers: int, ids: Tensor) -> Tensor:
    """Next-token loss summed over the predicted tokens, in nats, as something to differentiate."""
    if stack is None:
        logits = access.adapter.differentiable_logits(access.model, ids)
    else:
        state = stack.prelude(ids)
        for layer in range(n_layers):
            state = stack.step(layer, state)
        logits = stack.readout(state)
    return F.cross_entropy(predicting(logits).float(), ids[:, 1:].flatten(), reduction="sum")


def _add_gradients(loss: Tensor) -> None:
    if not loss.requires_grad:
        raise InputError("estimator 'taylor' needs gradients, which this model's blocks do not give")
    loss.backward()  # type: ignore[no-untyped-call]


@contextmanager
def _gradients_of(weights: Sequence[nn.Parameter]) -> Iterator[None]:
    """Collect gradients of these weights; afterwards everything is as before."""
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
