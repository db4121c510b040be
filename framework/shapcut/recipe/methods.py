"""Named methods: estimator, selector and publication of each."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

Evaluations = Callable[[int, int, int], int]
"""Coalitions to measure, from the numbers of removable players, of players to remove and of groups."""


@dataclass(frozen=True, slots=True)
class Method:
    """A way to choose layers.

    Attributes:
        name: the method's name.
        estimator: ``NAME[:key=value,...]``.
        selector: ``NAME[:key=value,...]``.
        utility: name of the utility to measure with; None: the recipe's.
        needs: number of coalitions to measure; None: the recipe's budget.
        source: publication of the method.
        windows: number of calibration windows to measure on; None: all.
        takes_budget: whether a budget that the user gives replaces ``needs``.
    """

    name: str
    estimator: str
    selector: str
    utility: str | None
    needs: Evaluations | None
    source: str
    windows: int | None = None
    takes_budget: bool = False


def _nothing(_candidates: int, _n_remove: int, _n_groups: int) -> int:
    return 0


def _singles(candidates: int, _n_remove: int, _n_groups: int) -> int:
    return candidates + 1


def _greedy(candidates: int, n_remove: int, n_groups: int) -> int:
    from shapcut.baselines.greedy import greedy_evaluations  # noqa: PLC0415 - names of methods need no numpy

    return greedy_evaluations(candidates, n_remove, n_groups)


def _half_of_greedy(candidates: int, n_remove: int, n_groups: int) -> int:
    """Coalitions on 4 of 16 windows for half of greedy's tokens, less the default finals.

    The finals measure 16 sets on 8 windows, 8 sets on 8 more and so on, which takes as many tokens as 80
    coalitions. If little is left, as with a dozen layers, use three coalitions per layer instead.
    """
    greedy = 2 * _greedy(candidates, n_remove, n_groups) - 80
    return max(3 * _singles(candidates, n_remove, n_groups), greedy)


_ALL = (
    Method("random", "random", "ranking", "log-likelihood", _nothing, "a uniform choice"),
    Method("last-n", "last-n", "ranking", "log-likelihood", _nothing, "the deepest blocks"),
    Method(
        "block-influence",
        "block-influence",
        "ranking",
        "log-likelihood",
        _nothing,
        "ShortGPT, arXiv 2403.03853",
    ),
    Method("angular", "none", "angular", "log-likelihood", _nothing, "Gromov et al., arXiv 2403.17887"),
    Method(
        "leave-one-out",
        "leave-one-out",
        "ranking",
        "log-likelihood",
        _singles,
        "Shortened LLaMA (perplexity), arXiv 2402.02834",
    ),
    Method(
        "taylor",
        "taylor",
        "ranking",
        "log-likelihood",
        _nothing,
        "Shortened LLaMA (Taylor), as above",
    ),
    Method("frequency", "frequency", "ranking", "log-likelihood", _nothing, "SEER-MoE, arXiv 2404.05089"),
    Method("ean", "ean", "ranking", "log-likelihood", _nothing, "Jaiswal et al., arXiv 2504.05586"),
    Method("reap", "reap", "ranking", "log-likelihood", _nothing, "REAP, arXiv 2510.13999"),
    Method("greedy", "none", "greedy", "log-likelihood", _greedy, "SLEB, arXiv 2402.09025"),
    Method("evolutionary", "none", "evolutionary", "kl", None, "EvoPress, arXiv 2410.14649"),
    Method("shapley", "permutation", "ranking", "log-likelihood", None, "Castro et al. 2009: sampled orders"),
    Method("paper", "paper", "ranking", "perplexity-ratio", None, "arXiv 2602.07804"),
    Method(
        "ours",
        "surrogate",
        "search:patience=8",
        "log-likelihood",
        _half_of_greedy,
        "shapcut's default, twice as patient",
        windows=4,
        takes_budget=True,
    ),
)

METHODS: Mapping[str, Method] = MappingProxyType({method.name: method for method in _ALL})
"""By name."""
