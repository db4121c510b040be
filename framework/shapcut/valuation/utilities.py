"""Utilities: the value of a coalition.

A *token utility* turns a mean over the calibration tokens into a value and runs on the fast path. A
*model utility* is any function of the model, called while the absent players are bypassed.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from torch import nn

from shapcut.game.coalitions import Values
from shapcut.models.adapter import Adapter
from shapcut.support.errors import InputError

Measure = Literal["nll", "kl"]


class TokenUtility(ABC):
    """A value computed from the mean of a per-token quantity, in nats.

    Attributes:
        name: under which it is registered.
        measure: ``nll``, the loss of the next token (its negative log-likelihood), or ``kl``, the divergence
            of the next token's distribution from the whole model's. Both are lower for a better model.
        uses_full_mean: whether `value` reads ``full_mean``; where it does not, it may get NaN.
    """

    name: ClassVar[str]
    measure: ClassVar[Measure]
    uses_full_mean: ClassVar[bool] = True

    @abstractmethod
    def value(self, means: NDArray[np.float64], full_mean: float) -> Values:
        """Values of coalitions.

        Args:
            means: the measure's mean over tokens for each coalition, shape (n_coalitions,).
            full_mean: the same for the whole model.
        """


class PerplexityRatio(TokenUtility):
    """``PPL(full) / PPL(S)``, the paper's value (arXiv 2602.07804, section 3); 1 is the full model."""

    name = "perplexity-ratio"
    measure = "nll"

    def value(self, means: NDArray[np.float64], full_mean: float) -> Values:
        """``exp(full_mean - means)``."""
        return np.exp(full_mean - means)


class LogLikelihood(TokenUtility):
    """Mean log-likelihood of the next token, in nats; at most 0."""

    name = "log-likelihood"
    measure = "nll"
    uses_full_mean = False

    def value(self, means: NDArray[np.float64], full_mean: float) -> Values:  # noqa: ARG002
        """``-means``."""
        return -means


class KullbackLeibler(TokenUtility):
    """``-KL(full || S)``, the mean over tokens in nats; needs no labels, 0 for the full model."""

    name = "kl"
    measure = "kl"
    uses_full_mean = False

    def value(self, means: NDArray[np.float64], full_mean: float) -> Values:  # noqa: ARG002
        """``-means``."""
        return -means


class ModelUtility:
    """A custom value: any function of the model, called with the absent players bypassed.

    Args:
        function: maps the model to its value (higher is better).
        name: identifies the function in stores and plans; change it when the function changes.
    """

    def __init__(self, function: Callable[[nn.Module], float], name: str) -> None:
        self.function = function
        self.name = name


class TokenizedUtility(ABC):
    """A value of a model on texts of its own, which a model's tokenizer turns into a `ModelUtility`.

    Attributes:
        name: names the utility with its options in plans.
    """

    name: str

    @abstractmethod
    def bound(self, adapter: Adapter, tokenizer: Any) -> ModelUtility:
        """The value for models with this adapter and tokenizer."""


Utility = TokenUtility | ModelUtility


def check_measure(utility: Utility) -> None:
    """Refuse a utility of an unknown measure.

    Raises:
        InputError: naming the known ones.
    """
    if isinstance(utility, TokenUtility) and utility.measure not in get_args(Measure):
        known = ", ".join(get_args(Measure))
        raise InputError(f"utility {utility.name!r} has the measure {utility.measure!r}; use one of {known}")


def bound_utility(utility: Utility | TokenizedUtility, adapter: Adapter, tokenizer: Any) -> Utility:
    """A utility that a game can use."""
    return utility.bound(adapter, tokenizer) if isinstance(utility, TokenizedUtility) else utility
