"""Fill the tables of README and docs from `benchmarks/results`: no number in them is typed by hand.

python benchmarks/tables.py            # rewrites the marked places
python benchmarks/tables.py --check    # exit status 1 if one is out of date
"""

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import mean
from typing import Any

ROOT = Path(__file__).parent.parent
LENGTH = 128
RESULTS = ROOT / "benchmarks" / "results"
ZOO = ROOT / "benchmarks" / "zoo" / "models"


def after_the_cut(content: dict[str, Any]) -> str:
    """Perplexities after each treatment, a line for each cut, and what mending finalists adds."""
    treatments = ("none", "compensate", "heal", "compensate + heal")
    found = {(row["model"], tuple(row["removed"]), row["after"]): row for row in content["rows"]}
    lines = [
        "Held-out perplexity, and in brackets the seconds that the steps took.",
        "",
        f"| model | removed | whole model | {' | '.join(treatments)} |",
        f"|---|---|---|{'---|' * len(treatments)}",
    ]
    for model, removed in dict.fromkeys(key[:2] for key in found if key[1]):
        cells = [_treated(found.get((model, removed, after))) for after in treatments]
        whole = found[model, (), "none"]["perplexity"]
        lines.append(f"| {model} | {', '.join(map(str, removed))} | {whole:.2f} | {' | '.join(cells)} |")
    if content["in_the_game"]:
        lines += [
            "",
            "Eight finalists, the best by its own value against the best by its value after compensation:",
            "",
            "| model | removed | chosen before mending | then compensated | chosen after mending | perplexity |",
            "|---|---|---|---|---|---|",
        ]
    for row in content["in_the_game"]:
        sets = [", ".join(map(str, row[f"chosen_{when}_mending"])) for when in ("before", "after")]
        values = [f"{row[f'perplexity_{when}']:.2f}" for when in ("before", "after")]
        cells = [row["model"], str(row["n_remove"]), sets[0], values[0], sets[1], values[1]]
        lines.append(f"| {' | '.join(cells)} |")
    about = f"{content['hardware']}, torch {content['torch']}; heal: {content['heal']}."
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


def _about(content: dict[str, Any]) -> list[str]:
    return [
        f"{content['model']}; {content['text']}; {content['hardware']}, torch {content['torch']}. "
        "`python benchmarks/speed.py --text wikitext2/valid.txt`.",
        "",
    ]


def speed(content: dict[str, Any]) -> str:
    """Seconds a coalition, ours and the reference's way in turns."""
    part = content["coalitions"]
    lines = [
        *_about(content),
        "| way | seconds a coalition | times faster | block runs a coalition | share of the product peak |",
        "|---|---|---|---|---|",
    ]
    for name, row in part["summary"].items():
        cells = [
            name,
            f"{row['seconds a coalition']:.3f}",
            f"{row['times faster than the reference']:.2f}",
            f"{row['block runs a coalition']:.1f}",
            f"{row['share of the matrix-product peak']:.0%}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    tried = ", ".join(
        f"{row['dtype']} {'all samples at once' if row['samples at once'] else 'one sample at a time'} "
        f"{row['seconds']:.2f} s"
        for row in part["reference tried"]
    )
    warm = ", ".join(f"{name} {value:.0f} s" for name, value in part["warm-up seconds"].items())
    ratios = ", ".join(f"{turn['fused, siblings']['ratio']:.2f}" for turn in part["turns"])
    lines += [
        "",
        f"The reference's way was tried as: {tried}; the table has the fastest. Start of our evaluation, compiling "
        f"included: {warm}. Ratio of the last row, turn by turn: {ratios}. Peak of bfloat16 products measured: "
        f"{part['peak GFLOPS']:.0f} GFLOPS. Peak memory of the process that holds the model in both formats and "
        f"all evaluators: {part['peak memory MiB']:.0f} MiB.",
    ]
    return "\n".join(lines)


def speed_values(content: dict[str, Any]) -> str:
    """How far values are from the slow bypass."""
    part = content["values"]
    rows = [
        (
            "float32 against the bypass in float32",
            part["float32 coalitions"],
            part["float32 largest difference"],
        ),
        (
            "bfloat16 against the bypass in bfloat16",
            part["bfloat16 coalitions"],
            part["bfloat16 largest difference from the bypass in bfloat16"],
        ),
        (
            "bfloat16 against float32",
            part["bfloat16 coalitions"],
            part["bfloat16 largest difference from float32"],
        ),
        (
            "the bypass in bfloat16 against float32",
            part["bfloat16 coalitions"],
            part["bypass in bfloat16, largest difference from float32"],
        ),
    ]
    low, high = part["loss range"]
    return "\n".join(
        [
            "| values | coalitions | largest difference, nats |",
            "|---|---|---|",
            *(f"| {name} | {count} | {difference:.2g} |" for name, count, difference in rows),
            "",
            f"Losses range from {low:.1f} to {high:.1f} nats. 95 % of the bfloat16 values are within "
            f"{part['bfloat16 95th percentile of that']:.2g} of their bypass. Spearman correlation in bfloat16: "
            f"{part['bfloat16 Spearman with the bypass in bfloat16']:.5f} with the bypass, "
            f"{part['bfloat16 Spearman with float32']:.5f} with float32.",
        ]
    )


def speed_plan(content: dict[str, Any]) -> str:
    """The whole way to a plan."""
    part, quality = content["plan"], content.get("paper")
    rows = [
        ("dense", "", "", f"{part['dense perplexity']:.2f}"),
        (
            "the reference's pipeline: 8,000 masks, 80,000 surrogate masks",
            f"{part['reference seconds in all, multiplied']:,.0f} (multiplied)",
            "",
            "",
        ),
        (
            "shapcut, from loading to the plan",
            f"{part['ours seconds, from loading to the plan']:,.0f}",
            str(part["ours removed"]),
            f"{part['ours perplexity']:.2f}",
        ),
    ]
    if quality is not None:
        masks = f"the paper's method, {quality['masks']:,} masks of {quality['windows']} windows run"
        rows.insert(2, (masks, "", str(quality["removed"]), f"{quality['perplexity']:.2f}"))
    lines = [
        f"{content['model']}; {len(part['ours removed'])} blocks removed; {content['text'].partition(',')[0]}, "
        f"calibration on its first three quarters, held out the last; {content['hardware']}, "
        f"torch {content['torch']}. `python benchmarks/speed.py --text wikitext2/valid.txt plan paper`.",
        "",
        "| way | seconds | removed | held-out perplexity |",
        "|---|---|---|---|",
    ]
    lines += [f"| {' | '.join(row)} |" for row in rows]
    lines += [
        "",
        f"Ratio of times: {part['times faster']:.0f}. shapcut was given {part['ours coalitions at most']} coalitions "
        f"on {part['ours windows a coalition']} windows of {LENGTH} tokens, and its default finals. The reference's cost is "
        f"{part['reference seconds a mask']:.2f} s a mask and "
        f"{part['reference surrogate seconds a mask'] * 1e3:.1f} ms of surrogate calls a surrogate mask, measured "
        "and multiplied by its published sizes.",
    ]
    return "\n".join(lines)


def speed_growth(content: dict[str, Any]) -> str:
    """Seconds against what they should grow with."""
    lines = ["| | seconds | seconds over the first row's | size over the first row's |", "|---|---|---|---|"]
    for what, points in content["growth"].items():
        size, took = points[0]
        lines += [
            f"| {n:,} {what} | {value:.1f} | {value / took:.2f} | {n / size:.2f} |" for n, value in points
        ]
    return "\n".join(lines)


def speed_places(content: dict[str, Any]) -> str:
    """Other processes, and weights on disk."""
    ray, offload = content["executors"], content["offload"]
    disk, memory = offload["disk"], offload["off"]
    return "\n".join(
        [
            f"Two Ray workers of one thread each took {ray['ray over local']:.2f} times as long as one process of two "
            f"threads for {ray['coalitions']} coalitions ({ray['ray seconds']:.0f} s against {ray['local seconds']:.0f} s; "
            f"to start, {ray['ray seconds to start']:.0f} s against {ray['local seconds to start']:.0f} s). Largest "
            f"difference of values: {ray['largest difference of values']:.2g} nats.",
            "",
            f"With {offload['limit'] / 1e6:.0f} MB of memory allowed to the whole process (control group) and "
            f"{offload['weights'] / 1e6:.0f} MB of weights, `--offload disk` ended with status {disk['exit status']} after "
            f"{disk['seconds']:.0f} s; without offload the same run ended with status {memory['exit status']} "
            "(-9: killed for its memory).",
        ]
    )


def selection(content: dict[str, Any]) -> str:
    """Every method on every model, averaged over seeds."""
    lines: list[str] = []
    for model in content["models"]:
        text, facts = model["text"], model["model"]
        windows = " x ".join(map(str, text["held_out_windows"]))
        lines += [
            f"**{facts['source']}**, {facts['players']} blocks, coalitions in {facts['dtype']}; calibration "
            f"{' x '.join(map(str, text['calibration_windows']))} tokens of {text['calibration']}, judged on {windows} "
            f"tokens of {text['held_out']}, {'BOS first' if text['adds_bos'] else 'no BOS'}. "
            f"Dense: {_perplexity(model['dense_held_out_perplexity'])}.",
            "",
            "| removed | method | held-out perplexity | lowest, highest | coalitions | tokens processed | seconds "
            "| blocks removed, seed by seed |",
            "|---|---|---|---|---|---|---|---|",
        ]
        for row in averages(model):
            sets = list(dict.fromkeys(", ".join(map(str, removed)) for removed in row["removed"]))
            spread = (
                "" if row["seeds"] == 1 else f"{_perplexity(row['lowest'])}, {_perplexity(row['highest'])}"
            )
            cells = [
                str(row["n_remove"]),
                row["method"],
                _perplexity(row["perplexity"]),
                spread,
                f"{row['evaluations']:,.0f}",
                f"{row['tokens']:,.0f}",
                f"{row['seconds']:,.1f}",
                "; ".join(sets),
            ]
            lines.append(f"| {' | '.join(cells)} |")
        failures = {f"{row['method']}: {row['failure']}" for row in model["rows"] if row["failure"]}
        lines += ["", *(f"{failure}" for failure in sorted(failures)), ""]
    lines.append(f"`{content['command']}`, {content['hardware']}, torch {content['torch']}.")
    return "\n".join(lines)


def averages(model: dict[str, Any]) -> list[dict[str, Any]]:
    """One entry for each number of players and method, best first within a number; failures are left out."""
    groups: dict[tuple[int, str], list[dict[str, Any]]] = {}
    for row in model["rows"]:
        if not row["failure"]:
            groups.setdefault((row["n_remove"], row["method"]), []).append(row)
    found = [_average(rows) for rows in groups.values()]
    return sorted(found, key=lambda row: (row["n_remove"], row["perplexity"] or float("inf"), row["method"]))


def _average(rows: list[dict[str, Any]]) -> dict[str, Any]:
    perplexities = [row["held_out_perplexity"] for row in rows]
    finite = None not in perplexities
    return {
        "method": rows[0]["method"],
        "n_remove": rows[0]["n_remove"],
        "perplexity": mean(perplexities) if finite else None,
        "lowest": min(perplexities) if finite else None,
        "highest": max(perplexities) if finite else None,
        "removed": [row["removed"] for row in rows],
        "evaluations": mean(row["evaluations"] for row in rows),
        "tokens": mean(row["tokens"] for row in rows),
        "seconds": mean(row["seconds"] for row in rows),
        "seeds": len(rows),
    }


def _perplexity(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.1f}"


def quantization(content: dict[str, Any]) -> str:
    """Each step that quantizes, against rounding to the nearest."""
    plain = content["unquantized"]
    lines = [
        f"{content['model']}, blocks {', '.join(map(str, content['removed']))} removed; perplexity of "
        f"{content['windows']} windows of {content['length']} tokens of the last quarter of {content['text']}; "
        f"{content['calibration_tokens']:,} calibration tokens of the rest.",
        "",
        "| step | perplexity | over unquantized | rounding to the nearest | checkpoint | logits after reloading "
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
            f"Held-out perplexity of what `shapcut prune` wrote, as `shapcut evaluate` reads it, and the removed blocks; "
            f"{content['budget']} coalitions, {content['text']}, torch {content['torch']}. `{content['command']}`.",
        ]
    )


def estimators(content: dict[str, Any]) -> str:
    """Error and rank agreement of every estimator, means over the enumerated games."""
    rows = content["rows"]
    budgets, games = sorted({row["budget"] for row in rows}), content["games"]
    lines = [
        f"| estimator | {' | '.join(f'{budget} coalitions' for budget in budgets)} |",
        f"|---|{'---|' * len(budgets)}",
    ]
    for name in dict.fromkeys(row["estimator"] for row in rows):
        cells = []
        for budget in budgets:
            own = [
                row for row in rows if (row["estimator"], row["budget"]) == (name, budget) and "error" in row
            ]
            mean = [sum(row[key] for row in own) / max(1, len(own)) for key in ("error", "kendall")]
            cells.append(f"{mean[0]:.3f} ({mean[1]:.2f})" if len(own) == len(games) else "")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    lines += [
        "",
        f"Root mean square error over players, divided by the spread of the exact values (in brackets Kendall's tau "
        f"with the exact ranking); means over {content['seeds']} seeds and the models {', '.join(games)}, 4,096 "
        f"coalitions each. `{content['command']}`.",
    ]
    return "\n".join(lines)


def read_result(name: str) -> dict[str, Any]:
    """What a table is made of."""
    if name != "zoo":
        shared = name.startswith(("speed", "quantization"))
        return _json(RESULTS / f"{name.partition('_')[0] if shared else name}.json")
    models = sorted(path.parent for path in ZOO.glob("*/measurements.json"))
    return {
        model.name: _json(model / "measurements.json") | {"curve": _json(model / "curve.json")}
        for model in models
    }


def _json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


TABLES: dict[str, Callable[[dict[str, Any]], str]] = {
    "families": families,
    "speed": speed,
    "speed_values": speed_values,
    "speed_plan": speed_plan,
    "speed_growth": speed_growth,
    "speed_places": speed_places,
    "selection": selection,
    "quantization": quantization,
    "quantization_order": quantization_order,
    "zoo": zoo,
    "zoo_prune": zoo_prune,
    "after_the_cut": after_the_cut,
    "estimators": estimators,
}
PAGES = (
    "README.md",
    "docs/after-the-cut.md",
    "docs/estimators.md",
    "docs/families.md",
    "docs/quantization.md",
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
