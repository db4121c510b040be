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

from tables_mending import mended_cut, mended_prune, mending
from tables_players import (
    forms,
    players_experts,
    players_families,
    players_mixed,
    players_sublayers,
    sublayers_families,
)
from tables_selection import (
    best_sets,
    calibration_size,
    estimators,
    leaderboard,
    selection,
    selection_summary,
)
from tables_serving import engines, gguf
from tables_speed import (
    block_runs,
    growth,
    large_vocabulary,
    racing,
    readout,
    siblings,
    speed,
    speed_default,
    speed_growth,
    speed_places,
    speed_plan,
    speed_values,
)

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
ZOO = ROOT / "benchmarks" / "zoo" / "models"


def after_the_cut(content: dict[str, Any]) -> str:
    """Perplexities after each treatment, a line for each cut, and what mending finalists adds."""
    treatments = ("none", "compensate", "heal", "compensate + heal")
    found = {(row["model"], tuple(row["removed"]), row["after"]): row for row in content["rows"]}
    lines = [
        "Held-out perplexity, with the seconds of the steps in brackets.",
        "",
        f"| model | removed | whole model | {' | '.join(treatments)} |",
        f"|---|---|---|{'---|' * len(treatments)}",
    ]
    for model, removed in dict.fromkeys(key[:2] for key in found if key[1]):
        cells = [_treated(found.get((model, removed, after))) for after in treatments]
        whole = found[model, (), "none"]["perplexity"]
        lines.append(f"| {model} | {', '.join(map(str, removed))} | {whole:.2f} | {' | '.join(cells)} |")
    variants = list(dict.fromkeys(row["after"] for row in content["rows"] if ":" in row["after"]))
    if variants:
        lines += [
            "",
            "Other ways to compensate:",
            "",
            f"| model | removed | {' | '.join(f'`{name}`' for name in variants)} |",
            f"|---|---|{'---|' * len(variants)}",
        ]
        for model, removed in dict.fromkeys(key[:2] for key in found if key[2] in variants):
            cells = [_treated(found.get((model, removed, name))) for name in variants]
            lines.append(f"| {model} | {', '.join(map(str, removed))} | {' | '.join(cells)} |")
    if content["in_the_game"]:
        lines += [
            "",
            "The best of eight finalists by its own value and by its value after compensation, at the same number of "
            "tokens per finalist. Perplexities are of both sets after compensation:",
            "",
            "| model | removed | tokens per finalist | by its own value | perplexity | by its value after compensation | perplexity |",
            "|---|---|---|---|---|---|---|",
        ]
    for row in content["in_the_game"]:
        cells = [row["model"], str(row["n_remove"]), f"{row['tokens_a_finalist']:,}"]
        for how in ("unmended", "mended"):
            chosen = ", ".join(map(str, row[f"chosen_{how}"]))
            cells += [chosen, f"{row[f'perplexity_chosen_{how}']:.2f}"]
        lines.append(f"| {' | '.join(cells)} |")
    healed: dict[str, list[str]] = {}
    for row in content["rows"]:
        if "heal" in row:
            models = healed.setdefault(row["heal"], [])
            models += [row["model"]] if row["model"] not in models else []
    trained = "; ".join(f"`heal:{options}` for {', '.join(models)}" for options, models in healed.items())
    about = f"{content['hardware']}, torch {content['torch']}; {trained}."
    return "\n".join([*lines, "", f"`python benchmarks/after_the_cut.py`, {about}"])


def _treated(row: dict[str, Any] | None) -> str:
    return f"{row['perplexity']:.2f} ({row['seconds']:.0f})" if row else ""


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


def shapes(content: dict[str, Any]) -> str:
    """Each published shape, cut at random places."""
    values = {"config.json": "its config.json", "transformers": "transformers' defaults"}
    published = sum(row["source"] == "config.json" for row in content.values())
    exact = sum(row["verdict"] == "exact" for row in content.values())
    lines = [
        f"{len(content)} shapes, {published} with the values of a published config.json; {exact} exact.",
        "",
        "| model | model type | values of | layers | removed | verdict | largest difference |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, row in content.items():
        cells = [name, row["model_type"], values[row["source"]]]
        tried = "difference" in row
        cells += [str(row["layers"]), str(len(row["removed"]))] if tried else ["", ""]
        cells += [row["verdict"], f"{row['difference']:.1g}" if tried else ""]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, "", "`python benchmarks/shapes.py`."])


def quantization(content: dict[str, Any]) -> str:
    """Each step that quantizes, against rounding to the nearest."""
    plain = content["unquantized"]
    lines = [
        f"{content['model']}, blocks {', '.join(map(str, content['removed']))} removed; perplexity of "
        f"{content['windows']} windows of {content['length']} tokens of the last quarter of {content['text']}; "
        f"{content['calibration_tokens']:,} calibration tokens of the rest.",
        "",
        "| step | perplexity | over unquantized | round to nearest | checkpoint | difference of logits after reloading "
        "| seconds |",
        "|---|---|---|---|---|---|---|",
        f"| unquantized | {plain['perplexity']:.2f} | | | {plain['checkpoint_bytes'] / 1e6:.0f} MB | | |",
    ]
    for row in content.get("steps", ()):
        cells = [
            f"`{row['step']}`",
            f"{row['perplexity']:.2f}",
            f"{row['perplexity'] / plain['perplexity'] - 1:+.1%}",
            f"{row['nearest_perplexity']:.2f} ({row['nearest']})",
            f"{row['checkpoint_bytes'] / 1e6:.0f} MB",
            f"{row['reload_difference']:.2g}",
            f"{row['seconds']:.0f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    versions = ", ".join(f"{name} {version}" for name, version in content["versions"].items())
    return "\n".join([*lines, "", f"{content['threads']} threads, {content['machine']}; {versions}."])


def quantization_order(content: dict[str, Any]) -> str:
    """Which comes first, at one budget."""
    part = content.get("order")
    if part is None:
        return "Not measured yet: `python benchmarks/quantization.py --part order --text FILE`."
    lines = [
        f"`{part['step']}`, {part['budget']} coalitions of {part['tokens']:,} tokens each.",
        "",
        "| order | removed blocks | perplexity | checkpoint | seconds |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {row['order']} | {', '.join(map(str, row['removed']))} | {row['perplexity']:.2f} "
        f"| {row['checkpoint_bytes'] / 1e6:.0f} MB | {row['seconds']:.0f} |"
        for row in part["rows"]
    ]
    return "\n".join(lines)


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


def zoo_prune(content: dict[str, Any]) -> str:
    """Every model of the zoo before and after three cuts."""
    counts = list(next(iter(content["models"].values()))["cuts"])
    lines = [
        f"| model | adapter | dense | {' | '.join(f'{count} removed' for count in counts)} |",
        f"|---|---|---|{'---|' * len(counts)}",
    ]
    for name, row in content["models"].items():
        cuts = (
            f"{cut['perplexity of what was written']:.2f} ({', '.join(map(str, cut['removed']))})"
            for cut in row["cuts"].values()
        )
        lines.append(f"| {name} | {row['adapter']} | {row['dense']:.2f} | {' | '.join(cuts)} |")
    return "\n".join(
        [
            *lines,
            "",
            f"Held-out perplexity of the checkpoint from `shapcut prune --no-mend`, measured by `shapcut evaluate`, with the removed "
            f"blocks in brackets; "
            f"{content['budget']} coalitions, {content['text']}, torch {content['torch']}. `{content['command']}`.",
        ]
    )


def kill(content: dict[str, Any]) -> str:
    """What was lost, repeated or different after runs were killed."""
    kinds = " and ".join(f"{count} of kind *{kind}*" for kind, count in content["runs_by_kind"].items())
    moments = "after each phase in turn" if content.get("moments") == "phases" else "at random moments"
    faults = ", ".join(f"{name.replace('_', ' ')} {count}" for name, count in content["faults"].items())
    runs = f"{content['runs']} run{'s' * (content['runs'] != 1)}"
    return (
        f"{runs} ({kinds}) on `{content['model']}`, killed {content['kills']} times in total, "
        f"{moments}; "
        f"{content['runs_that_ended_done']} finished. Faults: {faults}. Seed {content['seed']}; the steps of the full "
        f"recipe: {', '.join(content['steps'])}. `benchmarks/{content['command'].partition(' ')[0]}`, {content['hardware']}."
    )


def read_result(name: str) -> dict[str, Any]:
    """What a table is made of."""
    if name != "zoo":
        shared = name.startswith(("speed", "selection", "quantization"))
        return _json(RESULTS / f"{name.partition('_')[0] if shared else name}.json")
    models = sorted(path.parent for path in ZOO.glob("*/measurements.json"))
    return {
        model.name: _json(model / "measurements.json") | {"curve": _json(model / "curve.json")}
        for model in models
    }


def _json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


SUPPORTED = ROOT / "adapters" / "shapcut_adapters" / "transformers" / "supported.json"

TABLES: dict[str, Callable[[dict[str, Any]], str]] = {
    "families": families,
    "players_experts": players_experts,
    "players_mixed": players_mixed,
    "players_sublayers": players_sublayers,
    "forms": forms,
    "players_families": players_families,
    "mixed_families": players_families,
    "sublayers_families": sublayers_families,
    "shapes": shapes,
    "siblings": siblings,
    "racing": racing,
    "block_runs": block_runs,
    "readout": readout,
    "large_vocabulary": large_vocabulary,
    "speed": speed,
    "speed_default": speed_default,
    "speed_values": speed_values,
    "speed_plan": speed_plan,
    "speed_growth": speed_growth,
    "speed_places": speed_places,
    "growth": growth,
    "selection": selection,
    "selection_summary": selection_summary,
    "quantization": quantization,
    "quantization_order": quantization_order,
    "gguf": gguf,
    "engines": engines,
    "zoo": zoo,
    "zoo_prune": zoo_prune,
    "after_the_cut": after_the_cut,
    "mended_cut": mended_cut,
    "mended_prune": mended_prune,
    "mending": mending,
    "estimators": estimators,
    "kill": kill,
    "kill_phases": kill,
    "best_sets": best_sets,
    "leaderboard": leaderboard,
    "calibration_size": calibration_size,
}
PAGES = (
    "README.md",
    "docs/after-the-cut.md",
    "docs/estimators.md",
    "docs/families.md",
    "docs/gguf.md",
    "docs/index.md",
    "docs/leaderboard.md",
    "docs/method.md",
    "docs/quantization.md",
    "docs/security.md",
    "docs/serving.md",
    "docs/selection.md",
    "docs/speed.md",
    "benchmarks/zoo/README.md",
)


def filled(text: str) -> str:
    """A page with every marked place filled from its result."""

    def fill(match: re.Match[str]) -> str:
        name = match["name"]
        return f"<!-- {name}:begin -->\n{TABLES[name](read_result(name))}\n<!-- {name}:end -->"

    names = "|".join(TABLES)
    return re.sub(rf"<!-- (?P<name>{names}):begin -->.*?<!-- (?P=name):end -->", fill, text, flags=re.DOTALL)


def supported() -> str:
    """What `shapcut families` answers from."""
    names = ("families", "sublayers_families", "players_families", "mixed_families")
    rows, sublayers, experts, mixed = (read_result(name)["families"] for name in names)
    found = {}
    for name, row in rows.items():
        exact = row["verdict"].startswith("exact")
        tried = (("sublayer", sublayers), ("expert", experts), ("mixed", mixed))
        finer = [kind for kind, other in tried if other.get(name, {}).get("verdict") == "exact"]
        found[name] = {
            "verdict": row["verdict"],
            "model_class": row.get("class", ""),
            "limits": row.get("constraints", []) if exact else [],
            "granularities": ["block", *finer] if exact else [],
            "fast": bool(row.get("fast_path")),
        }
    return json.dumps(found, indent=1) + "\n"


def main() -> int:
    """Fill or check all pages, and what the adapter says of its families."""
    stale = []
    if not SUPPORTED.exists() or SUPPORTED.read_text(encoding="utf-8") != supported():
        stale.append(SUPPORTED.name)
        if "--check" not in sys.argv:
            SUPPORTED.write_text(supported(), encoding="utf-8")
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
