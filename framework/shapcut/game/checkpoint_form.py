"""The form of a checkpoint that lacks players; imports nothing, as the command line reads it."""

from typing import Literal, get_args

CheckpointForm = Literal["same", "sibling", "remote-code"]
"""``same``: a model of the same family.

``sibling``: of another family, or with tiny zeroed weights in the place of players; every program that knows
the family loads it.

``remote-code``: with a modelling file beside it; only programs that run the file load it.
"""

AllowedForm = Literal["plain", "remote-code"]
"""``plain``: only forms that need no code. ``remote-code``: any, plain ones first."""

ALLOWED_FORMS: tuple[AllowedForm, ...] = get_args(AllowedForm)
