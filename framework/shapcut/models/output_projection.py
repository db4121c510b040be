"""What a block adds to the residual stream, by the modules whose outputs these are."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

_ROUNDS = 3


@dataclass(frozen=True, slots=True)
class OutputProjection:
    """A module whose output a player adds to the residual stream, times a factor.

    Attributes:
        module: its dotted path in the model.
        role: whether it ends a token mixer (attention, a state space) or the MLP after it.
        factor: multiplies the output before it is added.
        linear: whether the module is a single linear map with its own ``weight`` and optional ``bias``, into
            which another linear map can be folded. Other modules (a mixture of experts, a gated network) are
            declared too, so that a player's projections add up to its whole update.
        transposed: whether the weight has shape (inputs, outputs); of ``normed`` if there is one.
        bias: for a module that is not linear, the dotted path of a parameter whose last dimension is the
            stream's: a vector that is added to all its rows is added to the module's output. Empty if it has
            none.
        normed: for a module that is not linear, the dotted path of the linear map whose output it normalises:
            divides by a number for each token, the root mean square, and multiplies by one for each channel,
            see `norm_factors`. Empty if it does anything else.
    """

    module: str
    role: Literal["mixer", "mlp"]
    factor: float = 1.0
    linear: bool = True
    transposed: bool = False
    bias: str = ""
    normed: str = ""


def norm_factors(given: Tensor, normed: Tensor) -> tuple[Tensor, Tensor]:
    """The factors of a norm, such that ``normed`` is about ``given * by_token[:, None] * by_channel``.

    Alternating least squares, from one over the root mean square of each token on.

    Args:
        given: what the norm is given, shape (tokens, channels).
        normed: what it returns, same shape.

    Returns:
        Those of the tokens, shape (tokens,), and of the channels, shape (channels,), float64.
    """
    given, normed = given.double(), normed.double()
    tiny = torch.finfo(torch.float64).tiny
    by_token = given.square().mean(dim=1).clamp_min(tiny).rsqrt()
    by_channel = torch.ones_like(given[0])
    for _ in range(_ROUNDS):
        scaled = given * by_token[:, None]
        by_channel = (normed * scaled).sum(0) / scaled.square().sum(0).clamp_min(tiny)
        scaled = given * by_channel
        by_token = (normed * scaled).sum(1) / scaled.square().sum(1).clamp_min(tiny)
    return by_token, by_channel
