"""Results for programs."""

import json
import sys
from typing import Any


def print_json(content: Any) -> None:
    """Indented JSON on stdout."""
    json.dump(content, sys.stdout, indent=2)
    sys.stdout.write("\n")
