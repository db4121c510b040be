"""The page on adapters shows the files of the toy distribution, whole and in their order."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "writing-an-adapter.md"
SOURCE = Path(__file__).parent / "shapcut-toy-adapter"
FILES = ["pyproject.toml", *sorted(f"shapcut_toy/{path.name}" for path in SOURCE.glob("shapcut_toy/*.py"))]


def shown(file: str) -> list[str]:
    """The lines of a file that the page shows, without empty ones."""
    blocks = re.findall(
        rf"^<!-- {re.escape(file)} -->\n```\w+\n(.*?)^```$", PAGE.read_text("utf-8"), re.DOTALL | re.MULTILINE
    )
    return [line for block in blocks for line in block.splitlines() if line]


@pytest.mark.parametrize("file", FILES)
def test_the_page_shows_the_file(file: str) -> None:
    text = (SOURCE / file).read_text(encoding="utf-8")
    assert shown(file) == [line for line in text.splitlines() if line]


def test_the_page_shows_no_other_file() -> None:
    assert set(re.findall(r"^<!-- (\S+) -->$", PAGE.read_text("utf-8"), re.MULTILINE)) == set(FILES)


@pytest.mark.usefixtures("installed")
def test_the_test_on_the_page_passes() -> None:
    page = PAGE.read_text(encoding="utf-8")
    (test,) = re.findall(r"^```python\n(from shapcut\.testing.*?)^```$", page, re.DOTALL | re.MULTILINE)
    names: dict[str, Callable[[], None]] = {}
    exec(compile(test, PAGE.name, "exec"), names)  # noqa: S102 - the page's own code
    names["test_the_adapter_keeps_its_promises"]()
