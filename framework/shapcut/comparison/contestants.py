"""The methods that a comparison sets against each other."""

import re
from dataclasses import dataclass

from shapcut.recipe.methods import METHODS, Method
from shapcut.support.errors import InputError
from shapcut.support.suggest import did_you_mean

_CONTINUES = re.compile(r"\s*\w+=")


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
        InputError: on an unknown name, an invalid budget, or a repeated method.
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
