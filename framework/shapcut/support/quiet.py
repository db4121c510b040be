"""Silence the progress bars and log lines of libraries."""

import contextlib
import io
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

LIBRARY_LOGGERS = (
    "transformers",
    "huggingface_hub",
    "datasets",
    "evaluate",
    "gguf",
    "lm_eval",
    "torchao",
    "torch.utils._pytree",  # says what of torchao's is deprecated when that is imported
    "bitsandbytes",
)


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Silence progress bars and log lines below errors of transformers, the hub client and datasets.

    Closing the context restores the settings. If shapcut logs at level DEBUG, the libraries' log lines stay.
    """
    from huggingface_hub import utils as hub_utils  # noqa: PLC0415 - slow, and only needed with models
    from transformers.utils import logging as transformers_utils_logging  # noqa: PLC0415

    hub: Any = hub_utils
    transformers_logging: Any = transformers_utils_logging
    debugging = logging.getLogger("shapcut").isEnabledFor(logging.DEBUG)
    loggers = [] if debugging else [logging.getLogger(name) for name in LIBRARY_LOGGERS]
    levels = {logger: logger.level for logger in loggers if logger.level != logging.ERROR}
    bars, hub_bars = transformers_logging.is_progress_bar_enabled(), not hub.are_progress_bars_disabled()
    _set_levels(dict.fromkeys(levels, logging.ERROR))
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        _set_levels(levels)
        if bars:
            transformers_logging.enable_progress_bar()
        if hub_bars:
            hub.enable_progress_bars()
        else:
            hub.disable_progress_bars()


def _set_levels(levels: Mapping[logging.Logger, int]) -> None:
    """Set levels; `setLevel` forgets what every logger of the process has worked out, so call it once."""
    for logger, level in levels.items():
        logger.level = level
    for logger, level in list(levels.items())[-1:]:
        logger.setLevel(level)


@contextmanager
def without_stderr() -> Iterator[None]:
    """Discard output to stderr, for a library's progress bar that has no switch."""
    with contextlib.redirect_stderr(io.StringIO()):
        yield


def one_line(error: BaseException) -> str:
    """The first sentence of an exception's message on one line, or its type if the message is empty."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    return " ".join(lines[:2]) if lines[0].endswith(":") else lines[0]
