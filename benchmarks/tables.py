"""Fill the tables of README and docs from `benchmarks/results`: no number in them is typed by hand.

python benchmarks/tables.py            # rewrites the marked places
python benchmarks/tables.py --check    # exit status 1 if one is out of date
"""

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
ZOO = ROOT / "benchmarks" / "zoo" / "models"


def main_job(content: dict[str, Any]) -> str:
    """The main job against greedy search."""
    lines = [
        f"{content['model']}; {content['n_remove']} removed. {content['text']}.",
        "",
        "| method | seed | removed blocks | held-out perplexity | evaluations | tokens processed | seconds |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in content["rows"]:
        removed = ", ".join(map(str, row["removed"])) or "none"
        evaluations = " + ".join(str(count) for count in row.get("evaluations", {}).values())
        tokens = f"{row['tokens']:,}" if "tokens" in row else ""
        cells = [
            row["method"],
            str(row["seed"]),
            removed,
            f"{row['perplexity']:.2f}",
            evaluations,
            tokens,
            str(row.get("seconds", "")),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", f"`{content['command']}`, {content['hardware']}, torch {content['torch']}."]
    return "\n".join(lines)


def families(content: dict[str, Any]) -> str:
    """Every family of the sweep, with its verdict."""
    rows = content["families"]
    claimed = {name: row for name, row in rows.items() if "adapter" in row}
    removals = sum(row["removals"] for row in claimed.values())
    largest = max(row["largest_difference"] for row in claimed.values())
    exact = sum(row["verdict"].startswith("exact") for row in claimed.values())
    lines = [
        f"transformers {content['transformers']}, torch {content['torch']}, {content['machine']}, seeds "
        f"{', '.join(map(str, content['seeds']))}: {len(rows)} families of causal language models, "
        f"{len(claimed)} claimed, {exact} exact; "
        f"{removals} removals, the largest difference {largest:.1g} of the effect.",
        "",
        "| model type | class | verdict | removals | largest difference | fast path | notes |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [f"| {' | '.join(_family(name, row))} |" for name, row in rows.items()]
    return "\n".join([*lines, "", f"`{content['command']}`."])


def _family(name: str, row: dict[str, Any]) -> list[str]:
    if "adapter" not in row:
        return [name, row["class"], row["verdict"], "", "", "", ""]
    notes = [*row["constraints"], *([f"cache of the whole model: {row['cache']}"] if row["cache"] else [])]
    fast = "yes" if row["fast_path"] else "no"
    difference = f"{row['largest_difference']:.1g}"
    return [name, row["class"], row["verdict"], str(row["removals"]), difference, fast, "; ".join(notes)]


def zoo(content: dict[str, Any]) -> str:
    """The models of the zoo: how they were trained and what came out."""
    lines = [
        "| model | parameters | file | tokens in training | CPU seconds | held-out perplexity "
        "| token frequencies | factor | loss added without a block |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, found in content.items():
        end, first, *others = found["curve"][-1], *found["loss_added_without_block"]
        cells = [
            name,
            f"{found['parameters']:,}",
            f"{found['bytes'] / 1e6:.2f} MB",
            f"{end['tokens']:,}",
            f"{end['cpu_seconds']:.0f}",
            f"{found['held_out_perplexity']:.2f}",
            f"{found['unigram_perplexity']:.2f}",
            f"{found['factor']:.1f}",
            f"{first:.2f} (first), {min(others):.3f} to {max(others):.3f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    some = next(iter(content.values()))
    lines += ["", f"Measured on {some['held_out_tokens']:,} tokens of {some['text']}, in windows of "]
    lines[-1] += f"{some['sequence_length']} tokens."
    return "\n".join(lines)


def read_result(name: str) -> dict[str, Any]:
    """What a table is made of."""
    if name != "zoo":
        return _json(RESULTS / f"{name}.json")
    models = sorted(path.parent for path in ZOO.glob("*/measurements.json"))
    return {
        model.name: _json(model / "measurements.json") | {"curve": _json(model / "curve.json")}
        for model in models
    }


def _json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


TABLES: dict[str, Callable[[dict[str, Any]], str]] = {
    "main_job": main_job,
    "families": families,
    "speed": speed,
    "zoo": zoo,
}
PAGES = ("README.md", "docs/families.md", "docs/speed.md", "benchmarks/zoo/README.md")


def filled(text: str) -> str:
    """A page with every marked place filled from its result."""

    def fill(match: re.Match[str]) -> str:
        name = match["name"]
        return f"<!-- {name}:begin -->\n{TABLES[name](read_result(name))}\n<!-- {name}:end -->"

    names = "|".join(TABLES)
    return re.sub(rf"<!-- (?P<name>{names}):begin -->.*?<!-- (?P=name):end -->", fill, text, flags=re.DOTALL)


def main() -> int:
    """Fill or check all pages."""
    stale = []
    for name in PAGES:
        page = ROOT / name
        text = page.read_text(encoding="utf-8")
        if filled(text) != text:
            stale.append(name)
            if "--check" not in sys.argv:
                page.write_text(filled(text), encoding="utf-8")
    print("\n".join(stale) or "all tables are up to date")
    return 1 if stale and "--check" in sys.argv else 0


if __name__ == "__main__":
    sys.exit(main())
