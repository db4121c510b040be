"""Values in whose scale arithmetic works: squares neither overflow nor vanish."""

import numpy as np

from shapcut.game.coalitions import Values
from shapcut.support.errors import InputError, ShapcutError

LARGEST_VALUE = 1e100
SMALLEST_SPREAD = 1e-100

_ROUNDING_STEPS = 4


def require_scale(values: Values) -> None:
    """Refuse finite values that are huge, or that differ only in a tiny amount.

    Raises:
        InputError: with the value, if it is out of scale.
    """
    known = values[np.isfinite(values)]
    if not len(known):
        return
    largest = float(np.abs(known).max())
    if largest > LARGEST_VALUE:
        raise InputError(
            f"a coalition has the value {largest:.3g}, above {LARGEST_VALUE:g}: divide the utility's values"
        )
    spread = float(np.ptp(known))
    if 0.0 < spread < SMALLEST_SPREAD:
        raise InputError(
            f"the values of {len(known)} coalitions differ by at most {spread:.3g}, below "
            f"{SMALLEST_SPREAD:g}: multiply the utility's values"
        )


def require_spread(values: Values) -> None:
    """Refuse values that tell no coalition from another, but for rounding.

    Raises:
        ShapcutError: with the value.
    """
    known = values[np.isfinite(values)]
    if len(known) < 2:  # noqa: PLR2004 - nothing to compare
        return
    if np.ptp(known) <= _ROUNDING_STEPS * np.finfo(np.float64).eps * float(np.abs(known).max()):
        raise ShapcutError(
            f"all {len(known)} measured coalitions have the same value, {known[0]:.6g}: no player can be "
            "told from another; take another utility or text"
        )
