"""The tables of README and docs are what the results say."""

import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("page", ["README.md", "benchmarks/zoo/README.md"])
def test_tables_are_generated_from_results(page: str) -> None:
    spec = importlib.util.spec_from_file_location("tables", ROOT / "benchmarks" / "tables.py")
    assert spec is not None
    assert spec.loader is not None
    tables = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tables)
    text = (ROOT / page).read_text(encoding="utf-8")
    assert ":begin -->" in text
    assert tables.filled(text) == text
