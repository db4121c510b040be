"""The methods that have a name: which estimator and selector they are, and where they come from."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from shapcut.baselines.greedy import greedy_evaluations
from shapcut.errors import InputError
from shapcut.registry import did_you_mean

Evaluations = Callable[[int, int], int]
"""How many coalitions a method measures, from the numbers of removable players and of players to remove."""

_CONTINUES = re.compile(r"\s*\w+=")


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


def _half_of_greedy(candidates: int, n_remove: int) -> int:
    """What half of greedy's tokens pay for, on 4 of 16 windows: coalitions, and default finals.

    These measure 16 sets on 8 windows, 8 on as many again and so on: as many tokens as 80 coalitions. Where
    that leaves next to nothing, as with a dozen layers, it is three times what looking at every layer alone
    takes.
    """
    return max(3 * _singles(candidates, n_remove), 2 * greedy_evaluations(candidates, n_remove) - 80)


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
    Method("greedy", "none", "greedy", "log-likelihood", greedy_evaluations, "SLEB, arXiv 2402.09025"),
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


@dataclass(frozen=True, slots=True)
class Contestant:
    """A method with the budget that it has in a comparison.

    Attributes:
        label: what the user wrote.
        method: the method.
        budget: coalitions that it may measure; None: what the comparison gives.
    """

    label: str
    method: Method
    budget: int | None = None

    def evaluations(self, candidates: int, n_remove: int, given: int) -> int:
        """The budget for ``n_remove`` of ``candidates`` removable players."""
        if self.budget is not None:
            return self.budget
        return given if self.method.needs is None else self.method.needs(candidates, n_remove)


def parse_methods(text: str) -> tuple[Contestant, ...]:
    """Methods separated by commas: ``NAME`` or ``ESTIMATOR+SELECTOR``, each with ``@BUDGET`` if wanted.

    Options of an estimator or selector may follow a colon; their commas are told from those between methods
    by what comes after them: ``surrogate:share=0.5,focus=2+search@300,greedy`` are two methods.

    Raises:
        InputError: on an unknown name, a budget that is none, or the same method twice.
    """
    parts: list[str] = []
    for piece in text.split(","):
        if parts and _CONTINUES.match(piece):
            parts[-1] += f",{piece}"
        else:
            parts.append(piece)
    labels = [part.strip() for part in parts]
    if twice := sorted({label for label in labels if labels.count(label) > 1}):
        raise InputError(f"--methods names {twice[0]!r} twice")
    return tuple(_contestant(label) for label in labels)


def _contestant(label: str) -> Contestant:
    name, at, number = label.partition("@")
    if at and not (number.isdecimal() and int(number) > 0):
        raise InputError(f"--methods {label!r}: after @ comes the number of coalitions, not {number!r}")
    budget = int(number) if at else None
    estimator, plus, selector = name.partition("+")
    if plus and estimator and selector:
        return Contestant(label, Method(name, estimator, selector, None, None, "a combination"), budget)
    if name not in METHODS:
        raise InputError(
            f"unknown method {name!r}: {did_you_mean(name, METHODS)}; or write ESTIMATOR+SELECTOR"
        )
    return Contestant(label, METHODS[name], budget)
