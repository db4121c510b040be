"""The methods that have a name: which estimator and selector they are, and where they come from."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

Evaluations = Callable[[int, int], int]
"""How many coalitions a method measures, from the numbers of removable players and of players to remove."""


@dataclass(frozen=True, slots=True)
class Method:
    """A way to choose layers.

    Attributes:
        name: what it is called.
        estimator: ``NAME[:key=value,...]``.
        selector: ``NAME[:key=value,...]``.
        utility: the registered utility whose values it goes by; None: the one that is asked for.
        needs: how many coalitions it measures; None: as many as it is given.
        source: where it was published.
        windows: calibration windows that it measures coalitions on; None: all.
    """

    name: str
    estimator: str
    selector: str
    utility: str | None
    needs: Evaluations | None
    source: str
    windows: int | None = None


def _nothing(_candidates: int, _n_remove: int) -> int:
    return 0


def _singles(candidates: int, _n_remove: int) -> int:
    return candidates + 1


def _greedy(candidates: int, n_remove: int) -> int:
    from shapcut.baselines.greedy import greedy_evaluations  # noqa: PLC0415 - names of methods need no numpy

    return greedy_evaluations(candidates, n_remove)


def _half_of_greedy(candidates: int, n_remove: int) -> int:
    """What half of greedy's tokens pay for, on 4 of 16 windows: coalitions, and default finals.

    These measure 16 sets on 8 windows, 8 on as many again and so on: as many tokens as 80 coalitions. Where
    that leaves next to nothing, as with a dozen layers, it is three times what looking at every layer alone
    takes.
    """
    return max(3 * _singles(candidates, n_remove), 2 * _greedy(candidates, n_remove) - 80)


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
    ),
)

METHODS: Mapping[str, Method] = MappingProxyType({method.name: method for method in _ALL})
"""By name."""
