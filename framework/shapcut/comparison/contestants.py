"""The methods of a comparison."""

import re
from dataclasses import dataclass

from shapcut.recipe.methods import METHODS, Method
from shapcut.support.errors import InputError
from shapcut.support.suggest import did_you_mean

_CONTINUES = re.compile(r"\s*\w+=")


@dataclass(frozen=True, slots=True)
class Contestant:
    """A method and its budget in a comparison.

    Attributes:
        label: the method as the user wrote it.
        method: the method.
        budget: maximum number of coalitions; None: the comparison's budget, or as many as the method needs.
    """

    label: str
    method: Method
    budget: int | None = None

    def evaluations(
        self, candidates: int, n_remove: int, given: int, n_groups: int = 1, *, given_by_user: bool = False
    ) -> int:
        """The budget for ``n_remove`` of ``candidates`` removable players in some groups.

        A budget that the user gives also limits a method that could spend any.
        """
        if self.budget is not None:
            return self.budget
        if self.method.needs is None or (given_by_user and self.method.takes_budget):
            return given
        return self.method.needs(candidates, n_remove, n_groups)


def parse_methods(text: str) -> tuple[Contestant, ...]:
    """Parse a list of methods, ``NAME`` or ``ESTIMATOR+SELECTOR``, each with an optional ``@BUDGET``.

    Estimators and selectors take options after a colon. A comma before ``key=`` continues the options:
    ``surrogate:share=0.5,focus=2+search@300,greedy`` is two methods.

    Raises:
        InputError: if a name is unknown, a budget is invalid, or a method is repeated.
    """
    parts: list[str] = []
    for piece in text.split(","):
        if parts and _CONTINUES.match(piece):
            parts[-1] += f",{piece}"
        else:
            parts.append(piece)
    labels = [part.strip() for part in parts]
    if twice := sorted({label for label in labels if labels.count(label) > 1}):
        raise InputError(f"--methods contains {twice[0]!r} twice; remove one")
    return tuple(_contestant(label) for label in labels)


def _contestant(label: str) -> Contestant:
    name, at, number = label.partition("@")
    if at and not (number.isdecimal() and int(number) > 0):
        raise InputError(f"--methods {label!r}: {number!r} after @ is not a number of coalitions above 0")
    budget = int(number) if at else None
    estimator, plus, selector = name.partition("+")
    if plus and estimator and selector:
        return Contestant(label, Method(name, estimator, selector, None, None, "a combination"), budget)
    if name not in METHODS:
        raise InputError(f"unknown method {name!r}: {did_you_mean(name, METHODS)}; or use ESTIMATOR+SELECTOR")
    return Contestant(label, METHODS[name], budget)
