"""Error types; the command line turns each into one line and an exit status."""


class ShapcutError(Exception):
    """A failure at run time; the message is one line (exit status 1)."""


class InputError(ShapcutError):
    """An invalid request, found before any work; names the value and the remedy (exit status 2)."""


class UnsupportedModelError(InputError):
    """No adapter can handle this model, or the architecture cannot express the result."""


class StoreMismatchError(InputError):
    """An evaluation store belongs to another model, other data or another utility."""


class BudgetExceededError(ShapcutError):
    """More distinct coalitions were requested than the budget allows."""


class VerificationError(ShapcutError):
    """A result differs from the reference semantics; nothing was written."""
