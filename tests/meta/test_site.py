"""Generated pages are what the code gives, and the documentation site builds without the network."""

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
EXTERNAL = re.compile(r"<(?:script|link|img|iframe)\b[^>]*(?:src|href)=\"?(?:https?:)?//[^>]*>")


def load_script(path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A script that is in no package."""
    monkeypatch.syspath_prepend(path.parent)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    return script


@pytest.mark.parametrize("page", ["cli.md", "python-api.md"])
def test_reference_pages_are_generated(page: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made = load_script(DOCS / "tools" / "reference.py", monkeypatch).PAGES[page]()
    assert (DOCS / page).read_text(encoding="utf-8") == made, "run python docs/tools/reference.py"


def test_figures_are_generated(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, made in load_script(DOCS / "tools" / "figures.py", monkeypatch).ALL.items():
        assert (DOCS / "figures" / f"{name}.svg").read_text(encoding="utf-8") == made()


def test_the_tutorial_shows_what_its_commands_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    tutorial = load_script(ROOT / "benchmarks" / "tutorial.py", monkeypatch)
    page = (DOCS / "tutorial.md").read_text(encoding="utf-8")
    outputs = json.loads(tutorial.RESULT.read_text(encoding="utf-8"))
    assert list(outputs) == tutorial.commands(page)
    assert tutorial.filled(page, outputs) == page
    assert not re.search(r"(?<![\w.])/(?:home|root|tmp|work)/", page)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The whole site; a broken link or anchor, or a page that is in no menu, ends the build."""
    directory = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(directory)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    return directory


def test_the_site_fetches_nothing(site: Path) -> None:
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > 20
    assert {
        str(page.relative_to(site)): EXTERNAL.findall(page.read_text(encoding="utf-8")) for page in pages
    } == {str(page.relative_to(site)): [] for page in pages}


def test_formulas_and_files_outside_docs_are_on_the_site(site: Path) -> None:
    formulas = (ROOT / "docs" / "method.md").read_text(encoding="utf-8").count("```math")
    assert (site / "method" / "index.html").read_text(encoding="utf-8").count("<math") == formulas > 0
    assert 'href="repository/CHANGELOG/"' in (site / "index.html").read_text(encoding="utf-8")
    assert (site / "repository" / "benchmarks" / "zoo" / "README" / "index.html").is_file() or (
        site / "repository" / "benchmarks" / "zoo" / "index.html"
    ).is_file()
    assert not (site / "tools").exists()
