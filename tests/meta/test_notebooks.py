"""Notebooks of the documentation run from the first cell to the last, and show what they promise."""

import ast
import json
from pathlib import Path
from typing import Any

import pytest
from tiny_checkpoints import stage_documentation

NOTEBOOKS = sorted((Path(__file__).parents[2] / "docs" / "notebooks").glob("*.ipynb"))


@pytest.fixture
def prepared(tmp_path: Path, tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    stage_documentation(tmp_path, tokenizer, "path", layers=6)
    monkeypatch.chdir(tmp_path)


def shown(source: str, names: dict[str, Any]) -> Any:
    """Run a cell as a notebook does; the value of its last line if that is an expression."""
    tree = ast.parse(source)
    last = tree.body[-1]
    if isinstance(last, ast.Expr):
        tree.body[-1] = ast.Assign([ast.Name("shown", ast.Store())], last.value)
    exec(compile(ast.fix_missing_locations(tree), "cell", "exec"), names)  # noqa: S102 - the notebook's own code
    return names.get("shown") if isinstance(last, ast.Expr) else None


@pytest.mark.usefixtures("prepared")
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.name)
def test_cells_run_in_their_order(notebook: Path) -> None:
    content = json.loads(notebook.read_text(encoding="utf-8"))
    assert (content["nbformat"], content["nbformat_minor"]) == (4, 5)
    cells = [cell for cell in content["cells"] if cell["cell_type"] == "code"]
    names: dict[str, Any] = {}
    values = [shown("".join(cell["source"]), names) for cell in cells]
    assert all(cell["outputs"] == [] for cell in cells)  # figures of one machine do not belong to the page
    tables = [value._repr_html_() for value in values if hasattr(value, "_repr_html_")]
    assert len(tables) == len(values) - 1
    assert all("</table>" in table for table in tables)


def test_there_is_one() -> None:
    assert NOTEBOOKS
