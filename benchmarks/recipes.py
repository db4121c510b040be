"""What is published of recipes: their JSON schema, the table of keys, the paper's experiments.

python benchmarks/recipes.py            # rewrites docs/recipe-schema.json and the marked places
python benchmarks/recipes.py --check    # exit status 1 if one is out of date
"""

import json
import re
import sys
from functools import cache
from pathlib import Path
from typing import Any

from shapcut.host.host import build_host
from shapcut.pipeline.dry_run import Forecast, forecast
from shapcut.recipe.fields import FIELDS
from shapcut.recipe.recipe import make_recipe
from shapcut.recipe.schema import recipe_schema
from shapcut.recipe.wording import accepted_values

ROOT = Path(__file__).parent.parent
PAPER = ROOT / "benchmarks" / "paper"
SCHEMA = ROOT / "docs" / "recipe-schema.json"
THROUGHPUT = 100.0  # TFLOP/s: about a third of an A100's bf16 peak of 312


def key_table() -> str:
    """Every key: what it takes, what it is if nobody says, what it means."""
    lines = ["| key | takes | default | meaning |", "|---|---|---|---|"]
    for key, content in recipe_schema()["properties"].items():
        meaning = content.pop("description")
        default = content.get("default")
        told = FIELDS[key].default_text if key in FIELDS else ""
        shown = told if default in (None, []) else f"`{json.dumps(default).strip(chr(34))}`"
        lines.append(f"| `{key}` | {_taken(content)} | {shown} | {meaning} |")
    return "\n".join(lines)


def _taken(content: dict[str, Any]) -> str:
    if "minProperties" in json.dumps(content):
        return "a list of names with options" if "items" in content else "a name with options"
    return accepted_values(content)


@cache
def foresee(recipe: Path) -> Forecast:
    """The dry run of one of the paper's recipes, with its config in place of the model."""
    config = PAPER / "configs" / model_of(recipe)
    made = make_recipe({"model": str(config), "device": "cpu"}, recipe)
    return forecast(made, build_host(), target=True, throughput=THROUGHPUT)


def model_of(recipe: Path) -> str:
    """``llama-2-7b`` of ``llama-2-7b-20.yaml``."""
    return re.sub(r"-(20|35|published)(-ours)?$", "", recipe.stem)


def paper_table() -> str:
    """The experiments: what goes, what it costs, and what the paper has printed of the same cut."""
    lines = [
        "| recipe | players | removed | coalitions | tokens | weights | operations | hours | published |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for recipe in sorted(PAPER.glob("*.yaml")):
        found = foresee(recipe)
        removed = [cut.most for cut in found.cuts]
        cells = [
            f"[{recipe.stem}]({recipe.name})",
            str(found.players),
            ", ".join(map(str, removed)),
            f"{found.coalitions:,}",
            f"{found.tokens:,}",
            f"{(found.memory.weights or 0) / 1e9:.1f} GB",
            f"{found.operations:.1e}",
            f"{found.seconds / 3600:.2f}",
            _published(model_of(recipe), removed),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(
        [*lines, "", f"Hours at {found.throughput / 1e12:g} TFLOP/s, no prefix of layers shared."]
    )


def _published(model: str, removed: list[int]) -> str:
    rows = read_published()["rows"]
    found = {
        row["removed"]: row["perplexity"]["paper"]
        for row in rows
        if row["model"] == model and "removed" in row
    }
    return ", ".join(str(found[count]) for count in removed if count in found)


def published_table() -> str:
    """All published numbers."""
    content = read_published()
    names = content["methods"]
    lines = [f"| model | cut | {' | '.join(names.values())} |", f"|---|---|{'---|' * len(names)}"]
    for row in content["rows"]:
        cut = (
            f"{row['removed']} blocks removed" if "removed" in row else f"{row['parameters']} parameters left"
        )
        values = [str(row["perplexity"].get(name, "")) for name in names]
        lines.append(f"| {row['model']} | {cut} | {' | '.join(values)} |")
    return "\n".join([*lines, "", f"Of {content['source']}: {content['figure']}. {content['missing']}"])


def read_published() -> Any:
    return json.loads((PAPER / "published.json").read_text(encoding="utf-8"))


TABLES = {"recipe-keys": key_table, "paper-recipes": paper_table, "paper-published": published_table}
PAGES = ("docs/recipes.md", "benchmarks/paper/README.md")


def filled(text: str) -> str:
    """A page with every marked place filled."""
    for name, table in TABLES.items():
        begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
        if begin in text:
            before, rest = text.split(begin, 1)
            text = f"{before}{begin}\n{table()}\n{end}{rest.split(end, 1)[1]}"
    return text


def main() -> int:
    wanted = {SCHEMA: json.dumps(recipe_schema(), indent=2) + "\n"}
    wanted |= {ROOT / page: filled((ROOT / page).read_text(encoding="utf-8")) for page in PAGES}
    stale = [
        path for path, text in wanted.items() if not path.exists() or path.read_text(encoding="utf-8") != text
    ]
    for path in stale:
        print(path.relative_to(ROOT))
        if "--check" not in sys.argv:
            path.write_text(wanted[path], encoding="utf-8")
    return 1 if stale and "--check" in sys.argv else 0


if __name__ == "__main__":
    sys.exit(main())
