"""Writes `docs/cli.md` and `docs/python-api.md` from the code.

python docs/tools/reference.py            # writes both pages
python docs/tools/reference.py --check    # exit status 1 if one is out of date
"""

import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from reference_cli import cli_page
from reference_python import python_page

DOCS = Path(__file__).resolve().parents[1]
PAGES: dict[str, Callable[[], str]] = {"cli.md": cli_page, "python-api.md": python_page}


def main() -> int:
    """Write or check the pages."""
    stale = []
    for name, made in PAGES.items():
        page, text = DOCS / name, made()
        if not page.is_file() or page.read_text(encoding="utf-8") != text:
            stale.append(name)
            if "--check" not in sys.argv:
                page.write_text(text, encoding="utf-8")
    print("\n".join(stale) or "both pages are up to date")
    return 1 if stale and "--check" in sys.argv else 0


if __name__ == "__main__":
    sys.exit(main())
