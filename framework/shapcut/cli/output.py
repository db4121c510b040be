"""Results for programs on stdout, and all that is not a result on stderr."""

import json
import logging
import sys
from typing import Any

from shapcut.support.progress import ConsoleReporter, Reporter, Silent


def print_json(content: Any) -> None:
    """Indented JSON on stdout."""
    json.dump(content, sys.stdout, indent=2)
    sys.stdout.write("\n")


def reporter() -> Reporter:
    """Where a command says what it does: nowhere if only warnings or errors are wanted."""
    wanted = logging.getLogger("shapcut").getEffectiveLevel() <= logging.INFO
    return ConsoleReporter() if wanted else Silent()
