"""The documentation says what is there, and its links lead somewhere."""

import re
from pathlib import Path

import pluggy
import pytest

from shapcut.export.gguf_rules import ARCHITECTURES
from shapcut.host import hookspecs

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])

_CODE = re.compile(r"```.*?```|`[^`\n]*`", re.DOTALL)
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ +(.+?) *$", re.MULTILINE)


def hook_names() -> set[str]:
    manager = pluggy.PluginManager("shapcut")
    manager.add_hookspecs(hookspecs)
    return {name for name, caller in vars(manager.hook).items() if caller.has_spec()}


def prose(page: Path) -> str:
    """A page without its code."""
    return _CODE.sub("", page.read_text(encoding="utf-8"))


def relative_links(page: Path) -> list[str]:
    return [
        link for link in _LINK.findall(prose(page)) if "://" not in link and not link.startswith("mailto:")
    ]


def anchors(page: Path) -> set[str]:
    """The fragments of a page's headings, as code forges make them."""
    headings = _HEADING.findall(re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken_links(page: Path) -> list[str]:
    broken = []
    for link in relative_links(page):
        path, _, fragment = link.partition("#")
        target = page.parent / path if path else page
        if not target.exists() or (fragment and fragment not in anchors(target)):
            broken.append(link)
    return broken


def test_every_hook_has_a_heading_and_every_heading_a_hook() -> None:
    headings = re.findall(
        r"^## (\S+)$", (ROOT / "docs" / "hooks.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert len(headings) == len(set(headings))
    assert set(headings) == hook_names()


def test_every_hook_is_implemented_by_a_test_or_a_first_party_plugin() -> None:
    """A hook that nobody implements is a hook that nobody has seen called."""
    sources = [
        path.read_text(encoding="utf-8")
        for folder in ("framework", "adapters", "plugins", "tests")
        for path in (ROOT / folder).rglob("*.py")
        if path.name != "hookspecs.py"
    ]
    implemented = set(re.findall(r"^ *def (shapcut_\w+)\(", "\n".join(sources), re.MULTILINE))
    assert hook_names() - implemented == set()


def test_every_decision_is_in_the_index() -> None:
    folder = ROOT / "docs" / "decisions"
    assert relative_links(folder / "README.md") == sorted(path.name for path in folder.glob("0*.md"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_relative_links_resolve(page: Path) -> None:
    assert broken_links(page) == []


def test_the_pages_that_are_checked_have_links() -> None:
    assert {"README.md", "docs/hooks.md"} <= {
        str(page.relative_to(ROOT)) for page in PAGES if relative_links(page)
    }


def test_a_link_to_nowhere_is_noticed(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# One thing\n[a](#one-thing) [b](#other) [c](missing.md) [d](page.md#one-thing) `[e](f)`\n"
    )
    assert broken_links(page) == ["#other", "missing.md"]


def test_the_page_on_gguf_names_every_architecture_that_is_cut_or_refused() -> None:
    words = (ROOT / "docs" / "gguf.md").read_text(encoding="utf-8").lower()
    names = {name.replace("deepseek2", "deepseek 2").replace("exaone4", "exaone 4") for name in ARCHITECTURES}
    assert {name for name in names if not re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", words)} == set()
