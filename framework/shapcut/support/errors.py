"""What can go wrong, as types: the command line turns each into one line and an exit status."""


class ShapcutError(Exception):
    """Something failed while working; the message is one line (exit status 1)."""


class InputError(ShapcutError):
    """The request itself is wrong: found before any work, names the value and what to do (exit status 2)."""


class UnsupportedModelError(InputError):
    """No adapter can handle this model, or the architecture cannot express the result."""


class StoreMismatchError(InputError):
    """An evaluation store belongs to another model, other data or another utility."""


class BudgetExceededError(ShapcutError):
    """More distinct coalitions were asked for than the budget allows."""


class VerificationError(ShapcutError):
    """A result was checked against the reference semantics and differs; nothing was written."""
