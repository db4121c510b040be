"""The check of an installed distribution passes here, and the citation names this version."""

import importlib.util
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]


def test_what_an_installation_must_do_works_here(capsys: pytest.CaptureFixture[str]) -> None:
    spec = importlib.util.spec_from_file_location("installed", ROOT / "tests" / "smoke" / "installed.py")
    assert spec is not None
    assert spec.loader is not None
    script: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    script.main()
    assert "works as installed" in capsys.readouterr().out
    script.FILES = {"shapcut": ("no-such-file",)}
    with pytest.raises(SystemExit, match="not in the distribution: shapcut/no-such-file"):
        script.main()


def test_the_citation_names_this_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert (str(citation["version"]), citation["license"]) == (project["version"], project["license"])
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()
